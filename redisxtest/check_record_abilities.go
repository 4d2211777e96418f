package redisxtest

import "github.com/go-redisx/redisx/core/driver"

// withAbilities returns r as a type that has the optional abilities of the driver below, and no other: type assertions, which
// core and plugins go by, then tell the truth.
func (r *recording) withAbilities() driver.Driver {
	router, isRouter := r.Driver.(driver.Router)
	_, isSub := r.Driver.(driver.Subscriber)
	_, isTr := r.Driver.(driver.Tracker)
	_, isDe := r.Driver.(driver.Dedicated)
	s, t, d := recordedSubscriber{r}, recordedTracker{r}, recordedDedicated{r}
	switch [4]bool{isRouter, isSub, isTr, isDe} {
	case [4]bool{true, false, false, false}:
		return struct {
			*recording
			driver.Router
		}{r, router}
	case [4]bool{false, true, false, false}:
		return struct {
			*recording
			recordedSubscriber
		}{r, s}
	case [4]bool{true, true, false, false}:
		return struct {
			*recording
			driver.Router
			recordedSubscriber
		}{r, router, s}
	case [4]bool{false, false, true, false}:
		return struct {
			*recording
			recordedTracker
		}{r, t}
	case [4]bool{true, false, true, false}:
		return struct {
			*recording
			driver.Router
			recordedTracker
		}{r, router, t}
	case [4]bool{false, true, true, false}:
		return struct {
			*recording
			recordedSubscriber
			recordedTracker
		}{r, s, t}
	case [4]bool{true, true, true, false}:
		return struct {
			*recording
			driver.Router
			recordedSubscriber
			recordedTracker
		}{r, router, s, t}
	case [4]bool{false, false, false, true}:
		return struct {
			*recording
			recordedDedicated
		}{r, d}
	case [4]bool{true, false, false, true}:
		return struct {
			*recording
			driver.Router
			recordedDedicated
		}{r, router, d}
	case [4]bool{false, true, false, true}:
		return struct {
			*recording
			recordedSubscriber
			recordedDedicated
		}{r, s, d}
	case [4]bool{true, true, false, true}:
		return struct {
			*recording
			driver.Router
			recordedSubscriber
			recordedDedicated
		}{r, router, s, d}
	case [4]bool{false, false, true, true}:
		return struct {
			*recording
			recordedTracker
			recordedDedicated
		}{r, t, d}
	case [4]bool{true, false, true, true}:
		return struct {
			*recording
			driver.Router
			recordedTracker
			recordedDedicated
		}{r, router, t, d}
	case [4]bool{false, true, true, true}:
		return struct {
			*recording
			recordedSubscriber
			recordedTracker
			recordedDedicated
		}{r, s, t, d}
	case [4]bool{true, true, true, true}:
		return struct {
			*recording
			driver.Router
			recordedSubscriber
			recordedTracker
			recordedDedicated
		}{r, router, s, t, d}
	}
	return r
}
