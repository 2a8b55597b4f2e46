package run

import (
	"fmt"
	"strings"

	"croft/state"
)

// processLabel is the SELinux label of a machine's processes; "" where none was asked for. Of a type it makes a label whose
// categories no other machine has, since no other has its ids: that is how container-selinux keeps containers apart.
func processLabel(s *state.Security, ids state.Range) string {
	if s.SELinux == "" || strings.Contains(s.SELinux, ":") {
		return s.SELinux
	}
	low, high := categories(int(ids.Base >> 16))
	return fmt.Sprintf("system_u:system_r:%s:s0:c%d,c%d", s.SELinux, low, high)
}

// mountLabel is that of the files in what is mounted for the processes of a label, in the policy of container-selinux.
func mountLabel(process string) string {
	if process == "" {
		return ""
	}
	const level = 3 // and all that follows: it may have colons of its own
	return "system_u:object_r:container_file_t:" + strings.SplitN(process, ":", level+1)[level]
}

// categories are the nth pair of different ones.
func categories(n int) (low, high int) {
	const most = 1024 // in the policies there are
	for n %= most * (most - 1) / 2; n >= most-1-low; low++ {
		n -= most - 1 - low
	}
	return low, low + 1 + n
}

// selinuxOn says whether processes can have labels here.
func selinuxOn() error {
	if !exists("/sys/fs/selinux/enforce") {
		return fmt.Errorf("this host has no SELinux: %w", state.ErrUnsupported)
	}
	return nil
}

// checkLabels wants this host to have what a machine was asked to be confined by.
func checkLabels(s *state.Security) error {
	if s.SELinux != "" {
		if err := selinuxOn(); err != nil {
			return fmt.Errorf("label %s: %w", s.SELinux, err)
		}
	}
	if s.AppArmor != "" && s.AppArmor != state.Unconfined {
		return loaded(s.AppArmor)
	}
	return nil
}
