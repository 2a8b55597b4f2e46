package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/pkg/docker/config"
	"github.com/containers/image/v5/types"

	"croft/state"
)

// authFileVariable names the file of credentials, as in podman and skopeo.
const authFileVariable = "REGISTRY_AUTH_FILE"

// Login asks a registry whether it takes the password, and keeps it in the file that podman, skopeo and buildah read as well.
func Login(ctx context.Context, registry, user, password string, insecure bool) error {
	registry = registryHost(registry)
	sys := registryContext(insecure)
	if err := docker.CheckAuth(ctx, sys, user, password, registry); err != nil {
		var refused docker.ErrUnauthorizedForCredentials
		if errors.As(err, &refused) {
			err = &sentence{"the registry does not take that name and password", errors.Join(state.ErrInvalid, err)}
		}
		return fmt.Errorf("login %s: %w", registry, err)
	}
	if _, err := config.SetCredentials(sys, registry, user, password); err != nil {
		return fmt.Errorf("login %s: %w", registry, err)
	}
	return nil
}

// Logout forgets the password for a registry; "" is for all of them.
func Logout(registry string) error {
	sys := registryContext(false)
	if registry == "" {
		return config.RemoveAllAuthentication(sys)
	}
	registry = registryHost(registry)
	err := config.RemoveAuthentication(sys, registry)
	if errors.Is(err, config.ErrNotLoggedIn) {
		err = fmt.Errorf("a password for it: %w", state.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("logout %s: %w", registry, err)
	}
	return nil
}

// registryHost gives a registry as credentials are kept by: without a scheme.
func registryHost(registry string) string {
	for _, scheme := range []string{"https://", "http://"} {
		registry = strings.TrimPrefix(registry, scheme)
	}
	if registry = strings.TrimRight(registry, "/"); registry == "docker" || registry == "docker:" {
		return dockerHub
	}
	return registry
}

// registryContext is what containers/image shall know in whatever it does with a registry.
func registryContext(insecure bool) *types.SystemContext {
	sys := &types.SystemContext{OSChoice: "linux", DockerRegistryUserAgent: agent, AuthFilePath: os.Getenv(authFileVariable)}
	if insecure {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return sys
}
