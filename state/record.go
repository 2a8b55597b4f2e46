package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Schema is the version of the record this build writes. A build reads every schema up to its own and
// refuses a newer one before it changes anything.
const Schema = 1

// Instance is one record: what was asked, what was decided, what is known of the last run.
type Instance struct {
	Schema    int        `json:"schema"`
	UUID      string     `json:"uuid"` // 32 hex digits, never changes; also the guest's machine id
	Created   time.Time  `json:"created"`
	Spec      Spec       `json:"spec"`
	Facts     Facts      `json:"facts"`
	Applied   *Applied   `json:"applied,omitempty"`  // nil: never started, or cleanly undone
	Exit      *Exit      `json:"exit,omitempty"`     // nil: has not ended yet
	Restarts  int        `json:"restarts,omitempty"` // in a row, by Spec.Restart
	Rename    *Rename    `json:"rename,omitempty"`   // under way, or interrupted
	Snapshots []Snapshot `json:"snapshots,omitempty"`

	// raw is the record as read, so that what a later build added survives being written by this one.
	raw []byte
}

// Facts are what was decided for an instance before anything was done.
type Facts struct {
	Fingerprint string   `json:"fingerprint"`          // of the image
	Layers      []string `json:"layers"`               // digests, lowest first
	Driver      string   `json:"driver"`               // of the root
	Range       Range    `json:"range"`                // ids on the host
	ProjectID   uint32   `json:"project_id,omitempty"` // for quota; 0: none
	Links       []Link   `json:"links,omitempty"`
	Ports       []Port   `json:"ports,omitempty"`     // as asked for, and each with its port on the host
	Env         []string `json:"env,omitempty"`       // the image's own, below Spec.Env
	Init        Init     `json:"init"`                // as decided: never InitAuto
	InitKind    string   `json:"init_kind,omitempty"` // "": not known, or nothing boots
	StopSignal  int      `json:"stop_signal"`         // 0: the machine is asked from inside
	StopCommand []string `json:"stop_command,omitempty"`
	Notify      bool     `json:"notify,omitempty"`  // the init tells its notify socket when it is up
	Trigger     string   `json:"trigger,omitempty"` // create, copy or rename: which of the image's templates the next start runs, beside its own
}

// Range is a run of ids: Base is the host id of the guest's id 0.
type Range struct {
	Base uint32 `json:"base"`
	Size uint32 `json:"size"`
}

// End is the first host id behind the range.
func (r Range) End() uint64 { return uint64(r.Base) + uint64(r.Size) }

// Overlaps says whether two ranges share an id.
func (r Range) Overlaps(o Range) bool {
	return uint64(r.Base) < o.End() && uint64(o.Base) < r.End()
}

// Rename is a change of the name that is written into both records, the one under the old name and the one under the
// new, before anything moves: whoever finds either after a crash can finish it.
type Rename struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Applied is the plan exactly as it was started. Undo reads this and never a spec that was edited since.
type Applied struct {
	BootID  string    `json:"boot_id"` // of the host: another one means nothing of this is left
	Build   string    `json:"build"`   // version of croft that started it
	Started time.Time `json:"started"`
	Expires time.Time `json:"expires,omitzero"` // the end of Timeouts.Life; a reboot does not put it off
	Spec    Spec      `json:"spec"`
	Facts   Facts     `json:"facts"`
	Run     string    `json:"run"`             // the instance's directory under /run
	Cgroups []string  `json:"cgroups"`         // every directory made for it
	CDI     *CDI      `json:"cdi,omitempty"`   // of its devices
	Unit    string    `json:"unit,omitempty"`  // of systemd that holds the keeper
	Bound   bool      `json:"bound,omitempty"` // somebody else decides about its life: a client or a caller

	AppArmor AppArmor `json:"apparmor,omitzero"`
	SELinux  string   `json:"selinux,omitempty"` // the label of its processes
}

// AppArmor is what confines a machine's processes there.
type AppArmor struct {
	Profile   string `json:"profile,omitempty"`   // "": none
	Namespace string `json:"namespace,omitempty"` // of its own policy, made with the profile; "": the profile is somebody else's
}

// Label is what the kernel calls that: both, where the machine has policy of its own.
func (a AppArmor) Label() string {
	if a.Namespace == "" {
		return a.Profile
	}
	return a.Profile + "//&:" + a.Namespace + ":unconfined"
}

// How a machine ended.
const (
	ExitPoweroff = "poweroff" // the guest halted or powered off
	ExitExited   = "exited"   // PID 1 returned Code
	ExitKilled   = "killed"   // PID 1 died of signal Code-128
	ExitTimeout  = "timeout"  // Timeouts.Life was over
	ExitFailed   = "failed"   // it never came up
	ExitLost     = "lost"     // its keeper was killed, so nobody saw the end
)

// Exit is how the last run ended.
type Exit struct {
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"`
	Code     int       `json:"code"`                // as a shell would see it
	Error    string    `json:"error,omitempty"`     // for ExitFailed, and why there was no further restart
	HostDown bool      `json:"host_down,omitempty"` // it ran until its host went down: with the host it comes back
}

// Says is the end as half a sentence, of the machine.
func (x *Exit) Says() string {
	switch x.Reason {
	case ExitPoweroff:
		return "powered off"
	case ExitExited:
		return fmt.Sprintf("its init exited with status %d", x.Code)
	case ExitKilled:
		return "its init was killed"
	case ExitTimeout:
		return "its time was up"
	case ExitLost:
		return "its keeper was killed"
	}
	return x.Error
}

// Snapshot is reserved for the snapshots of an instance.
type Snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// parse reads a record and keeps its bytes; a record of a later build is refused.
func parse(data []byte) (*Instance, error) {
	var head struct {
		Schema int    `json:"schema"`
		UUID   string `json:"uuid"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	if head.Schema > Schema {
		return nil, fmt.Errorf("record has schema %d, this croft knows %d: a newer croft wrote it: %w", head.Schema, Schema, ErrUnsupported)
	}
	if head.Schema < 1 || head.UUID == "" {
		return nil, fmt.Errorf("not a record of an instance: %w", ErrInvalid)
	}
	in := &Instance{raw: bytes.Clone(data)}
	if err := json.Unmarshal(data, in); err != nil {
		return nil, err
	}
	return in, nil
}

// marshal writes the record, with whatever the record as read held that this build has no field for.
func (in *Instance) marshal() ([]byte, error) { return encode(in.raw, in, reflect.TypeFor[Instance]()) }

// encode writes v, of type t, with what raw, the record as read, has beyond the fields of t; nil is a new one.
func encode(raw []byte, v any, t reflect.Type) ([]byte, error) {
	now, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	merged, err := keepUnknown(raw, now, t)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, merged, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// keepUnknown returns now with those fields of old added that t does not know, at every depth.
func keepUnknown(old, now []byte, t reflect.Type) ([]byte, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
		return keepInList(old, now, t.Elem())
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() || len(old) == 0 {
		return now, nil
	}
	var was, is map[string]json.RawMessage
	if json.Unmarshal(old, &was) != nil || json.Unmarshal(now, &is) != nil || is == nil {
		return now, nil
	}
	known := fieldsOf(t)
	for name, value := range was {
		ft, ok := known[name]
		if !ok {
			is[name] = value
			continue
		}
		if _, still := is[name]; !still {
			continue
		}
		merged, err := keepUnknown(value, is[name], ft)
		if err != nil {
			return nil, err
		}
		is[name] = merged
	}
	return json.Marshal(is)
}

// keepInList does so for each element of now, a list of t, that old has too as far as t knows.
func keepInList(old, now []byte, t reflect.Type) ([]byte, error) {
	var was, is []json.RawMessage
	if json.Unmarshal(old, &was) != nil || json.Unmarshal(now, &is) != nil {
		return now, nil
	}
	for i, element := range is {
		j := slices.IndexFunc(was, func(other json.RawMessage) bool { return sameAs(element, other, t) })
		if j < 0 {
			continue
		}
		merged, err := keepUnknown(was[j], element, t)
		if err != nil {
			return nil, err
		}
		is[i], was = merged, slices.Delete(was, j, j+1)
	}
	return json.Marshal(is)
}

func sameAs(a, b []byte, t reflect.Type) bool {
	x, y := reflect.New(t), reflect.New(t)
	return json.Unmarshal(a, x.Interface()) == nil && json.Unmarshal(b, y.Interface()) == nil && reflect.DeepEqual(x.Interface(), y.Interface())
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = t.Field(i).Type
		}
	}
	return fields
}
