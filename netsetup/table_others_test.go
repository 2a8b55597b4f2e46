package netsetup

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"croft/state"
)

// A table finds what those of other roots publish, and neither its own nor what is no table of croft's.
func TestOthers(t *testing.T) {
	t.Parallel()
	if !ownHost(t) {
		return
	}
	ours, theirs := Table{"croft"}, Table{"croft-other"}
	for _, table := range []Table{ours, theirs, {"someone"}} {
		if err := table.Build(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	link := state.Link{IP: netip.MustParsePrefix("10.90.0.2/20"), IP6: netip.MustParsePrefix("fd00::2/64")}
	ports := []state.Port{
		{Proto: state.TCP, Host: 8080, Guest: 80, Count: 2},
		{Proto: state.UDP, IP: "192.0.2.7", Host: 53, Guest: 5353},
		{Proto: state.TCP, IP: "2001:db8::1", Host: 443, Guest: 8443},
	}
	for _, table := range []Table{theirs, {"someone"}} {
		if err := table.Add(Member{Name: "web", Links: []state.Link{link}, Ports: ports}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ours.Others()
	if err != nil {
		t.Fatal(err)
	}
	if owners := slices.Collect(maps.Keys(got)); !slices.Equal(owners, []Owner{{"croft-other", "web"}}) {
		t.Fatalf("publishers: %v", owners)
	}
	var texts []string
	for _, p := range got[Owner{"croft-other", "web"}] {
		texts = append(texts, p.String())
	}
	slices.Sort(texts)
	want := []string{"192.0.2.7:53:5353/udp", "8080:80", "8081:81", "[2001:db8::1]:443:8443"}
	if texts = slices.Compact(texts); !slices.Equal(texts, want) { // a port of both versions of IP is there twice
		t.Errorf("published: %q, not %q", texts, want)
	}
	if own, err := theirs.Others(); err != nil || len(own) != 0 {
		t.Errorf("of itself it finds %v, %v", own, err)
	}
}
