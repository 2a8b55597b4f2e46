package simplestreams

// Keys are those that may sign a server's lists, by fingerprint.
type Keys []string

// accept says whether lists that were signed so may be used.
func (k Keys) accept(signedBy string) bool { return k == nil || signedBy != "" }
