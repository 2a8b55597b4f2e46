package state

import (
	"fmt"
	"maps"
)

// Names of profiles with a meaning of their own.
const (
	DefaultProfile = "default" // that of machines that name none
	NoProfile      = "none"    // in place of any
)

// Origins of settings that are no profile.
const (
	OriginOwn  = ""     // the machine's own word that it has none, where a profile has a value
	OriginHost = "host" // what new machines get by the host's settings, as long as no profile says otherwise
)

// CheckProfile judges the name of a profile.
func CheckProfile(name string) error {
	switch {
	case name == NoProfile, name == OriginHost:
		return fmt.Errorf("profile %q: that word means something else: %w", name, ErrMisnamed)
	case !validLabel(name):
		return fmt.Errorf("profile %q: 1-63 letters, digits and '-', no '-' at either end: %w", name, ErrMisnamed)
	}
	return nil
}

func (s *Spec) checkProfiles(say func(field, format string, a ...any)) {
	seen := map[string]bool{}
	for _, p := range s.Profiles {
		if err := CheckProfile(p); err != nil {
			say("profiles", "%v", err)
		}
		if seen[p] {
			say("profiles", "%s is given twice", p)
		}
		seen[p] = true
	}
}

// Own makes a setting, KEY or KEY.ENTRY, the machine's own, wherever it came from; none: that it has no value is its word.
func (s *Spec) Own(key string, none bool) {
	origins := maps.Clone(s.Origins)
	delete(origins, key)
	if none {
		if origins == nil {
			origins = map[string]string{}
		}
		origins[key] = OriginOwn
	}
	s.Origins = origins
}
