# Everything a person or a CI does with this tree. `make demo` and `make test` install what is missing and need nothing else.
#
#   build    the one static binary, ./croft
#   check    what needs no root and takes seconds: format, vet, pure tests
#   test     every test there is, as root: unit tests, scripts on real guests, in hosts with systemd and in VMs, real tasks
#   clean    the binary, and all that the tests keep: guests, hosts, VMs
#   soak     the fault tests at length: a thousand cycles, and moments of a new seed
#   fuzz     every fuzz target for FUZZTIME
#   demo     Debian from its mirror, booted, looked at and cleared away
#   bench    croft against its peers, in one run
#   manual   docs/man from the command table
#   lint     gofmt, vet, staticcheck, the C compiler's warnings, shellcheck where it is installed

GO      ?= go
CROFT   ?= croft
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TAGS    := seccomp netgo osusergo runc_nocriu nethttpomithttp2
GOBUILD := CGO_ENABLED=1 $(GO) build -trimpath -tags "$(TAGS)" \
	-ldflags "-s -w -X croft/run.Version=$(VERSION) -extldflags -static"

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

TEST_CACHE := $(abspath $(or $(CROFT_TEST_CACHE),/var/tmp/croft-test))
HOST_PARTS := trixie qemu vm-trixie vm-bookworm

# What the tests must not skip. A fact that depends on the host (systemd, apparmor, nft, ...) is not demanded, only used.
NEED := root,nobody,registry,gpg,cgroup2,limits,overlay,loop,keyctl,cc,strace,squashfs,erofs,oci-tools,guest:busybox,guest:apps,guest:incus-client,guest:trixie,guest:bookworm,guest:builder,guest:sysvinit,guest:openrc,guest:openrc-init,guest:runit,guest:managers,guest:nested,host:trixie,host:qemu,host:vm-trixie,host:vm-bookworm$(ALSO_NEED)

BUILD_DEPS := gcc libc6-dev libseccomp-dev pkg-config
TEST_DEPS  := $(BUILD_DEPS) mmdebstrap bzip2 xz-utils zstd util-linux e2fsprogs keyutils strace squashfs-tools erofs-utils btrfs-progs \
	docker-registry skopeo umoci jq cpio attr gnupg iproute2 nftables iptables iputils-ping curl netcat-openbsd iperf3 tcpdump

.PHONY: build check test clean fuzz soak demo bench manual lint deps test-deps wordsize
.NOTPARALLEL:

build: deps wordsize
	$(GOBUILD) -o $(CROFT) .

deps:
	@integration/install-deps $(BUILD_DEPS)

test-deps:
	@integration/install-deps $(TEST_DEPS)

# The id ranges and the file offsets that croft deals in do not fit 32 bits.
wordsize:
	@case "$$($(GO) env GOARCH)" in \
	386 | arm | mips | mipsle) echo "croft needs a 64-bit machine: $$($(GO) env GOARCH) is not one" >&2; exit 1 ;; \
	esac

check: deps
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted" >&2; exit 1; }
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) test -tags "$(TAGS)" -short ./...

# The unit tests go first and by themselves: the scripts' leak check looks at the whole host. What only waits for downloads is made
# beside them. With the tags the test binary is static, as it must be to run in hosts of other Debians.
test: test-deps build
	@for part in $(HOST_PARTS); do integration/host/build $$part >/dev/null & done; \
	$(GO) vet -tags "$(TAGS)" ./... && $(GO) test -tags "$(TAGS)" $$($(GO) list ./... | grep -v '^croft/integration'); \
	status=$$?; wait; exit $$status
	@$(MAKE) --no-print-directory fuzz FUZZTIME=2000x
	cd integration && CROFT_BIN=$(abspath $(CROFT)) CROFT_TEST_NEED=$(NEED) $(GO) test -tags "$(TAGS)" -count=1 -timeout 50m
	@echo "make test: everything passed"

clean:
	rm -f $(CROFT)
	@! grep -F ' $(TEST_CACHE)/' /proc/self/mountinfo || { echo "clean: not removing $(TEST_CACHE), in which these are mounted" >&2; exit 1; }
	rm -rf --one-file-system $(TEST_CACHE)

# What the fuzz targets have learnt stays in testdata/fuzz, to be committed when it is worth it.
FUZZTIME ?= 60s

fuzz: deps
	@grep -rl '^func Fuzz' --include='*_test.go' . | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' "$$file"); do \
			echo "$$target" && $(GO) test -tags "$(TAGS)" -run '^$$' -fuzz "^$$target$$" -fuzzminimizetime 10x -fuzztime $(FUZZTIME) "$$(dirname "$$file")" || exit 1; \
		done; done

soak: test-deps build
	cd integration && CROFT_BIN=$(abspath $(CROFT)) CROFT_TEST_NEED=$(NEED) CROFT_TEST_CYCLES=1000 CROFT_TEST_SEED=$${CROFT_TEST_SEED:-$$(date +%s)} \
		$(GO) test -count=1 -timeout 50m -run 'Scripts$$/^(soak|crowd|at_once|killed_.*|power_loss)$$'

demo: test-deps build
	CROFT=$(abspath $(CROFT)) integration/demo

bench: test-deps build
	CROFT_BIN=$(abspath $(CROFT)) $(GO) run -tags "$(TAGS)" ./integration/bench

manual: build
	env -u CROFT_ROOT -u CROFT_RUN $(abspath $(CROFT)) __manual docs/man

lint: deps
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted" >&2; exit 1; }
	$(GO) vet -tags "$(TAGS)" ./...
	$(GO) run $(STATICCHECK) -tags "$(TAGS)" ./...
	@for c in $$(git ls-files '*.c'); do echo "gcc $$c"; \
		gcc -std=gnu11 -fsyntax-only -O2 -Wall -Wextra -Wconversion -Werror "$$c" || exit 1; done
	@! command -v shellcheck >/dev/null || shellcheck -S warning .ci/run integration/demo integration/install-deps integration/guests/build integration/host/build integration/host/systemd integration/uplink
