package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"croft/state"
)

const (
	aliasesName = "aliases.json"
	aliasLength = 128
)

// CheckAlias tells whether alias may name an image: letters, digits and `. _ - /`, a letter or digit at both ends of
// every part between slashes, no longer than 128, and no fingerprint. A colon belongs to remotes (docker:debian:13).
func CheckAlias(alias string) error {
	wrong := func(why string) error { return fmt.Errorf("alias %q %w: %s", alias, state.ErrMisnamed, why) }
	switch {
	case alias == "" || len(alias) > aliasLength:
		return wrong(fmt.Sprintf("it has 1 to %d characters", aliasLength))
	case strings.Contains(alias, ":"):
		return state.Hint(wrong("a colon stands behind the name of a remote"), "use "+strings.ReplaceAll(alias, ":", "/"))
	case strings.ContainsFunc(alias, func(r rune) bool { return !alnum(r) && !strings.ContainsRune("._-/", r) }):
		return wrong("it has letters, digits and . _ - / only")
	case isDigest(alias):
		return wrong("it looks like a fingerprint")
	}
	for part := range strings.SplitSeq(alias, "/") {
		if part == "" || !alnum(rune(part[0])) || !alnum(rune(part[len(part)-1])) {
			return wrong("each part begins and ends with a letter or digit")
		}
	}
	return nil
}

func alnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// Aliases gives the fingerprint for each alias.
func (s *Store) Aliases() (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(s.Dir, aliasesName))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	aliases := map[string]string{}
	if err := json.Unmarshal(data, &aliases); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(s.Dir, aliasesName), err)
	}
	return aliases, nil
}

// spelled is the alias that ref is: one to the letter, or what a reference to an OCI image is called by when it is pulled,
// which always has a tag or a digest. "" is none.
func spelled(aliases map[string]string, ref string) string {
	names := []string{ref}
	if oci, is, err := ParseOCI(ref); is && err == nil {
		names = append(names, oci.String())
	} else if strings.Contains(ref, ":") {
		names = append(names, ref+":"+latest) // at a remote that is a registry
	}
	for _, name := range names {
		if _, ok := aliases[name]; ok {
			return name
		}
	}
	return ""
}

// SetAlias makes alias call the image ref. An alias that calls another image already is ErrExist unless replace.
func (s *Store) SetAlias(alias, ref string, replace bool) error {
	return s.locked(func() error {
		img, err := s.Get(ref)
		if err != nil {
			return err
		}
		return s.addAliases(img.Fingerprint, []string{alias}, replace)
	})
}

// RemoveAlias takes the alias away; the image stays, without a name if it was the last.
func (s *Store) RemoveAlias(alias string) error {
	return s.locked(func() error {
		aliases, err := s.Aliases()
		if err != nil {
			return err
		}
		is := spelled(aliases, alias)
		if is == "" {
			return fmt.Errorf("alias %s: %w", alias, state.ErrNotExist)
		}
		delete(aliases, is)
		return s.writeAliases(aliases)
	})
}

// addAliases adds all of them or none; the store is locked.
func (s *Store) addAliases(fingerprint string, names []string, replace bool) error {
	aliases, err := s.Aliases()
	if err != nil {
		return err
	}
	before := maps.Clone(aliases)
	for _, name := range names {
		if err := free(aliases, name, fingerprint, replace); err != nil {
			return err
		}
		aliases[name] = fingerprint
	}
	if maps.Equal(before, aliases) {
		return nil
	}
	return s.writeAliases(aliases)
}

// checkAliases tells whether all names may call the image from now on. Of an image that is not known yet, with an empty
// fingerprint, a taken name may turn out to be the right one.
func (s *Store) checkAliases(names []string, fingerprint string, replace bool) error {
	aliases, err := s.Aliases()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := free(aliases, name, fingerprint, replace); err != nil {
			return err
		}
	}
	return nil
}

// free tells whether name may call the image from now on. An empty fingerprint is one that is not known yet.
func free(aliases map[string]string, name, fingerprint string, replace bool) error {
	if err := CheckAlias(name); err != nil {
		return err
	}
	if old, ok := aliases[name]; ok && old != fingerprint && fingerprint != "" && !replace {
		err := fmt.Errorf("alias %s: %w: it calls image %.12s", name, state.ErrExist, old)
		return state.Hint(err, "use --reuse to move it")
	}
	return nil
}

func (s *Store) writeAliases(aliases map[string]string) error {
	data, err := json.MarshalIndent(aliases, "", "  ")
	if err != nil {
		return err
	}
	return state.ReplaceSpared(filepath.Join(s.Dir, aliasesName), append(data, '\n'), 0o644)
}

// aliasesOf inverts the map: fingerprint to sorted aliases.
func aliasesOf(aliases map[string]string) map[string][]string {
	of := map[string][]string{}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		of[aliases[alias]] = append(of[aliases[alias]], alias)
	}
	return of
}

// unknown is the answer to a reference that calls nothing, with what was probably meant.
func unknown(ref string, aliases map[string]string) error {
	return state.Hint(fmt.Errorf("image %s: %w", ref, state.ErrNotExist), suggest(ref, aliases))
}

func suggest(ref string, aliases map[string]string) string {
	name, tag, tagged := strings.Cut(ref, ":")
	slips := 3
	if tagged {
		slips = 1 // who writes docker's debian:12 means 12: debian/13 is no answer
	}
	if near := nearest(ref, aliases, slips); near != "" {
		return "use " + near
	}
	for alias := range aliases {
		if tagged && strings.HasPrefix(alias, name+":") { // it is a remote's
			return "croft image pull " + ref
		}
	}
	if tagged && name != "docker" && name != "oci" {
		return fmt.Sprintf("use docker:%s or %s/%s", ref, name, tag)
	}
	return "croft image list"
}

// nearest is the alias a person most likely meant: the same but for separators, case and fewer than slips letters.
func nearest[T any](ref string, aliases map[string]T, slips int) string {
	best, least := "", slips
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		if d := distance(folded(ref), folded(alias)); d < least && d < len(alias)/2 {
			best, least = alias, d
		}
	}
	return best
}

func folded(name string) string {
	return strings.NewReplacer(":", "/", "-", "/", "_", "/").Replace(strings.ToLower(name))
}

// distance counts the letters to insert, delete or change between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
