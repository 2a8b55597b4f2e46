package rootfs

import (
	"bufio"
	"os"
	"strings"
)

// holdsMount names a mount point at or below dir in the caller's namespace, or "".
func holdsMount(dir string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text()) // proc_pid_mountinfo(5): the fifth is the mount point
		if len(fields) < 5 {
			continue
		}
		at := unescape.Replace(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			return at, nil
		}
	}
	return "", s.Err()
}

// unescape undoes the four escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
