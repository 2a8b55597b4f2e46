package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestVM runs its scripts in a VM of Debian 13: a kernel and a cgroup2 tree of its own with every controller, AppArmor. Without
// hardware to help, a program takes two to ten times as long there as here, and its start thirty times: what can be shown elsewhere is.
func TestVM(t *testing.T) {
	inHost(t, "testdata/vm", trixieVM())
}

// TestVMReboots runs the scripts of each of its directories in a VM that is rebooted between them.
func TestVMReboots(t *testing.T) { inReboots(t, "testdata/reboots", trixieVM()) }

func trixieVM() hostKind {
	return hostKind{
		start: startVM("vm-trixie"),
		parts: []string{"qemu", "vm-trixie"},
		facts: "root,systemd,bus,cgroup2,cgroup:cpuset,cgroup:cpu,cgroup:io,cgroup:memory,cgroup:pids,limits,apparmor,overlay,loop,nft," +
			"nobody,keyctl,strace,squashfs,erofs,xfs,lxcfs",
	}
}

// TestVMBookworm runs its scripts on the kernel and the systemd of Debian 12.
func TestVMBookworm(t *testing.T) {
	inHost(t, "testdata/vm-bookworm", hostKind{
		start: startVM("vm-bookworm"),
		parts: []string{"qemu", "vm-bookworm"},
		facts: "root,systemd,bus,cgroup2,cgroup:cpuset,cgroup:cpu,cgroup:io,cgroup:memory,cgroup:pids,limits,apparmor,overlay,loop,nft,nobody",
	})
}

// startVM boots a VM on copies of the part's disk and of DIR/croft, kept in DIR for another boot.
func startVM(part string) func(ctx context.Context, h *testHost) error {
	return func(ctx context.Context, h *testHost) error {
		if err := h.makeDisks(ctx, h.made[part]); err != nil {
			return err
		}
		cmd := h.qemu(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
			"-machine", "q35,usb=off,vmport=off,smbus=off,sata=off,graphics=off", "-accel", "tcg,thread=multi,tb-size=512",
			"-cpu", "max,la57=off", "-smp", "2", "-m", "2048",
			"-L", filepath.Join(h.made["qemu"], "tree/usr/share/qemu"), "-L", filepath.Join(h.made["qemu"], "tree/usr/share/seabios"),
			"-kernel", filepath.Join(h.made[part], "vmlinuz"), "-initrd", filepath.Join(h.made[part], "initrd"),
			"-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on audit=0 systemd.show_status=0",
			"-drive", "file="+h.dir+"/root.qcow2,format=qcow2,if=none,id=root,cache=unsafe", "-device", "virtio-blk-pci,drive=root",
			"-drive", "file="+h.dir+"/croft.ext4,format=raw,if=none,id=croft,cache=unsafe", "-device", "virtio-blk-pci,drive=croft",
			"-device", "virtio-serial-pci", "-chardev", "file,id=out,path="+h.dir+"/out", "-device", "virtserialport,chardev=out",
			"-serial", "file:"+h.dir+"/console")
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		err := h.hold(cmd) // which is a success after a panic too: what the tests said decides
		console, _ := os.ReadFile(h.dir + "/console")
		h.said.Write(console)
		return err
	}
}

// makeDisks makes what the VM boots from, unless an earlier boot has left it.
func (h *testHost) makeDisks(ctx context.Context, part string) error {
	if _, err := os.Stat(h.dir + "/root.qcow2"); err == nil {
		return nil
	}
	if err := try("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", "-d", h.dir+"/croft", h.dir+"/croft.ext4", "4G"); err != nil {
		return err
	}
	out, err := h.qemu(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", part+"/root.ext4", "-F", "raw", h.dir+"/root.qcow2").CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// qemu is a command out of the part of that name, with the libraries that it was made for.
func (h *testHost) qemu(ctx context.Context, name string, args ...string) *exec.Cmd {
	usr := filepath.Join(h.made["qemu"], "tree/usr")
	cmd := exec.CommandContext(ctx, usr+"/lib64/ld-linux-x86-64.so.2",
		append([]string{"--library-path", usr + "/lib/x86_64-linux-gnu", usr + "/bin/" + name}, args...)...)
	cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+usr+"/lib/x86_64-linux-gnu/qemu")
	return cmd
}
