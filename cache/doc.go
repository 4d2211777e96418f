// Package cache keeps what is expensive to compute near those who ask for it: decoded in the process (L1), encoded in Redis
// (L2), and coherent between all processes.
package cache
