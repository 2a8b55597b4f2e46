package run

import (
	"errors"
	"strconv"
	"strings"

	"croft/image"
	"croft/image/template"
	"croft/rootfs"
	"croft/state"
)

// LXD's and Incus's images bring templates of files: see decision 029. They are run when the root is mounted and nothing
// runs in it yet.

// trigger is what the next start of in has to run templates for, where its image has any; otherwise nothing.
func (e *Engine) trigger(in *state.Instance, what string) string {
	all, err := e.Images.Templates(in.Facts.Fingerprint)
	if err == nil && len(all) == 0 {
		return ""
	}
	return what // what is wrong with them the start tells
}

// runTemplates writes the files that the image wants made at this start.
func (l *launch) runTemplates() error {
	in := l.Instance
	all, err := l.engine.Images.Templates(in.Facts.Fingerprint)
	if err != nil || len(all) == 0 {
		return err
	}
	img, err := l.engine.Images.Get(in.Facts.Fingerprint)
	if err != nil {
		return err
	}
	first := in.Facts.Trigger
	if first == "" && in.Spec.Root.Ephemeral { // its root has just been made
		first = image.TriggerCreate
	}
	for _, trigger := range []string{first, image.TriggerStart} {
		files, err := l.due(all, trigger, img)
		if err != nil {
			return err
		}
		if err := rootfs.Place(RootMount(), l.userns, files); err != nil {
			return err
		}
	}
	if in.Facts.Trigger == "" {
		return nil
	}
	_, err = l.engine.Dir.Edit(in.Spec.Name, func(now *state.Instance) error {
		now.Facts.Trigger = ""
		return nil
	})
	return err
}

// due are the files of the templates for one trigger. What croft generates itself at each start it keeps: it follows the
// settings of the machine, and a file in the machine's own layer would hide it for ever.
func (l *launch) due(all []image.FileTemplate, trigger string, img image.Image) (files []rootfs.Placed, err error) {
	for _, t := range all {
		if _, ours := l.Files[t.Path]; ours || !t.Due(trigger) {
			continue
		}
		text, err := templateText(t, trigger, l.Instance, img)
		if err != nil {
			return nil, err
		}
		files = append(files, rootfs.Placed{
			Path: t.Path, Content: text, UID: t.UID, GID: t.GID, Mode: uint32(t.Mode), CreateOnly: t.CreateOnly,
		})
	}
	return files, nil
}

func templateText(t image.FileTemplate, trigger string, in *state.Instance, img image.Image) (string, error) {
	values := templateValues(in, img)
	values["trigger"], values["path"], values["properties"] = trigger, t.Path, t.Properties
	return t.Text(values)
}

// templateValues are what templates can ask for (LXD: doc/reference/image_format.md, "Templates").
func templateValues(in *state.Instance, img image.Image) template.Values {
	self := map[string]string{
		"name": in.Spec.Name, "type": "container", "architecture": img.Architecture,
		"privileged": "false", "ephemeral": strconv.FormatBool(in.Spec.Remove),
	}
	config := lxdConfig(&in.Spec, img)
	return template.Values{
		"instance": self, "container": self, "config": config, "devices": lxdDevices(&in.Spec),
		"config_get": template.Function(func(args []any) (any, error) {
			key, ok := "", false
			if len(args) == 2 {
				key, ok = args[0].(string)
			}
			if !ok {
				return nil, errors.New("a key and what there is otherwise are expected")
			}
			if v, ok := config[key]; ok {
				return strings.TrimRight(v, "\r\n"), nil
			}
			return args[1], nil
		}),
	}
}

// lxdConfig is the machine's configuration in LXD's keys.
func lxdConfig(s *state.Spec, img image.Image) map[string]string {
	config := map[string]string{}
	for name, value := range img.Properties {
		config["image."+name] = value
	}
	for _, kv := range s.Env {
		name, value, _ := strings.Cut(kv, "=")
		config["environment."+name] = value
	}
	for name, value := range map[string]string{
		"user-data": s.CloudInit.UserData, "vendor-data": s.CloudInit.VendorData, "network-config": s.CloudInit.NetworkConfig,
	} {
		if value != "" {
			config["cloud-init."+name] = value
		}
	}
	for name, value := range s.Labels {
		if strings.HasPrefix(name, "user.") {
			config[name] = value
		}
	}
	return config
}

// lxdDevices are the machine's devices as LXD describes them.
func lxdDevices(s *state.Spec) map[string]map[string]string {
	devices := map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "default"}}
	for _, m := range s.Mounts {
		name := strings.ReplaceAll(strings.Trim(m.Target, "/"), "/", "-")
		devices[name] = map[string]string{"type": "disk", "source": m.Source, "path": m.Target, "readonly": strconv.FormatBool(m.ReadOnly)}
	}
	return devices
}
