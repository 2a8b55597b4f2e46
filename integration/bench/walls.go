package main

// measureWalls: what confinement costs a start and an exec, against the same machine with every wall down that a flag takes
// down. Ids, namespaces and masked paths are in both: there is no machine without them that is otherwise the same.
func measureWalls(b *bench) error {
	walls, open := &life{}, &life{}
	one := func(l *life, name string, flags ...string) func(int) error {
		create := append([]string{"create", "--network", "none", "--name", name, "--no-boot"}, flags...)
		return func(int) error {
			return b.oneLife(l,
				b.croft.do(append(create, "busybox", "sleep", "infinity")...),
				b.croft.do("start", name),
				b.croft.do("exec", name, "true"),
				b.croft.do("rm", "-f", name))
		}
	}
	err := interleave(b.n,
		one(walls, "walls"),
		one(open, "open", "--seccomp", "unconfined", "--apparmor", "unconfined", "--cap-add", "ALL", "--no-new-privileges=false"))
	if err != nil {
		return err
	}
	b.compare("start with all walls", walls.start, "with those down that can be", open.start, 1.15)
	b.compare("exec with all walls", walls.exec, "with those down that can be", open.exec, 1.1)
	return nil
}
