package run

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"croft/image"
	"croft/state"
)

// Backup is what a backup of LXD or Incus says of the instance in it.
type Backup = image.Backup

// ImportBackup makes a machine of a backup that `lxc export` or `incus export` has written: an image of the newest state of
// its files, and a machine of that image that has changed nothing yet. draft gives what is asked of the machine, its image
// aside, before anything is unpacked.
func (e *Engine) ImportBackup(ctx context.Context, o ImportOptions, draft func(Backup) (state.Spec, error)) (*state.Instance, error) {
	var spec state.Spec
	img, b, err := e.Images.ImportBackup(ctx, o, func(b Backup) (err error) {
		if spec, err = draft(b); err != nil {
			return err
		}
		spec.Image = "backup" // it is not known yet
		if err := spec.Check(); err != nil {
			return err
		}
		if _, err := e.Dir.Get(spec.Name); !errors.Is(err, state.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%s: %w", spec.Name, state.ErrExist))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	in, err := e.createImported(ctx, spec, img, b)
	if err != nil { // nobody else would ask for the image
		if gone := e.Images.Remove(img.Fingerprint, e.Users); !errors.Is(gone, state.ErrBusy) {
			err = errors.Join(err, gone)
		}
	}
	return in, err
}

func (e *Engine) createImported(ctx context.Context, spec state.Spec, img Image, b Backup) (*state.Instance, error) {
	spec.Image = img.Fingerprint
	top := img.Layers[len(img.Layers)-1]
	if name := strings.TrimSpace(string(e.Images.ReadIn(top, "etc/hostname"))); name != spec.Name && spec.Hostname == "" {
		named := spec
		if named.Hostname = name; named.Check() == nil {
			spec = named
		}
	}
	in, err := e.Draft(spec)
	if err != nil {
		return nil, err
	}
	in.Facts.Trigger = b.Config["volatile.apply_template"] // it was created long ago, unless it was never started
	if in.UUID, err = e.unusedUUID(strings.TrimSpace(string(e.Images.ReadIn(top, "etc/machine-id")))); err != nil {
		return nil, err
	}
	if err := e.Create(in); err != nil {
		return nil, err
	}
	// croft's own lies over that of the image, and an administrator may have written into it.
	if hosts := e.Images.ReadIn(top, "etc/hosts"); len(hosts) > 0 {
		if err := e.writeFile(ctx, in.Spec.Name, "hosts", hosts); err != nil { // half of an import is none
			return nil, errors.Join(err, e.Delete(context.WithoutCancel(ctx), in.Spec.Name, false))
		}
	}
	return in, nil
}

// unusedUUID is the machine id if it is one, and no machine here has it; else nothing, for a new one.
func (e *Engine) unusedUUID(id string) (string, error) {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 || strings.ToLower(id) != id {
		return "", nil
	}
	all, _, err := e.Dir.List()
	for _, in := range all {
		if in.UUID == id {
			return "", err
		}
	}
	return id, err
}

// writeFile writes a file into /etc of a stopped machine.
func (e *Engine) writeFile(ctx context.Context, machine, name string, content []byte) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return e.CopyIn(ctx, &archive, Place{machine, "/etc"}, Copying{Note: func(string) {}, Progress: func(int64) {}})
}
