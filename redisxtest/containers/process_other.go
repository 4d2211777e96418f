//go:build !unix

package containers

// ended cannot be known here: containers of tests that were killed stay.
func ended(int) bool { return false }
