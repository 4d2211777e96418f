package main

// What package cache brings to each study, in one place. Until it has a constructor there are no contenders of ours, and the
// studies compare the others with each other.

func (l *lab) oursLocal(int) ([]contender, error)        { return nil, nil }
func (l *lab) oursHit(string, int) ([]contender, error)  { return nil, nil }
func (l *lab) oursMiss() ([]contender, error)            { return nil, nil }
func (l *lab) oursDelete() ([]contender, error)          { return nil, nil }
func (l *lab) oursTags() ([]contender, error)            { return nil, nil }
func (l *lab) oursStampede() ([]contender, error)        { return nil, nil }
func (l *lab) oursBatchLocal() ([]contender, error)      { return nil, nil }
func (l *lab) oursBatchRemote(bool) ([]contender, error) { return nil, nil }
func (l *lab) oursInvalidation() ([]contender, error)    { return nil, nil }
func (l *lab) oursMemory() ([]contender, error)          { return nil, nil }
func oursFleets() []opener                               { return nil }
