package transforms

// ValidID tells whether s is an id as Girder gives them out: 24 hexadecimal
// digits, the letters small.
func ValidID(s string) bool {
	if len(s) != 24 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
