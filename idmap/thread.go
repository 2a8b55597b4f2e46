package idmap

import "runtime"

// Thread does one thing after the other, up to the first that fails, on a thread of their own: what they do to it, such as
// taking it into a namespace or giving it another user, ends with it.
func Thread(do ...func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var err error
		for i := 0; err == nil && i < len(do); i++ {
			err = do[i]()
		}
		done <- err
	}()
	return <-done
}
