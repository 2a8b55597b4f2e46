// Package integration holds croft's tests as a user would make them: scripts that run the real binary on real guests, real tasks
// from first command to last, and the tests of the house itself. It never imports a package of croft: what it knows of croft is its
// command line.
//
// Scripts are testdata/*.txtar and tasks/*.txtar (testscript; the commands added here are described in commands_test.go).
// What the environment decides:
//
//	CROFT_BIN           the binary under test; without it `make build` makes one
//	CROFT_TEST_CACHE    where guests are kept and scripts work, a real filesystem (/var/tmp/croft-test)
//	CROFT_TEST_NEED     comma-separated facts (see facts_test.go) whose absence fails a script instead of skipping it
//	CROFT_TEST_HOST     set by a test for the tests that it runs in a host of its own (host_test.go)
//	UPDATE              set: what a script compares with `cmp` is written into it instead
package integration
