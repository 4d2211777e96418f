// Command benchmarks compares the toolkit with the libraries beside it, in one process, and prints ratios.
//
//	go run ./benchmarks                    everything, on a redis-server that it starts
//	go run ./benchmarks -run 'core/goredis' -rounds 11 -time 500ms
//	go run ./benchmarks -redis redis://localhost:6379 -json results.json
//
// Machines are shared and noisy, so a single figure means little: peer and ours take turns, round by round, on the same
// server, and what counts is the median of the ratios of neighbouring rounds. Each row says what was asked of it; the exit
// code is 0 whatever the figures are, since times are no test. Allocations are, and `go test` asserts them.
package main
