// Package tools checks the repository: which package may import which, what the module files say, that the docs compile,
// and what a user's go get sees. Its tests are the checks.
package tools
