package powercut

// What other gates share with this one: its numbered sectors and its judge.

// SectorBytes is the grain of requests and of the numbers in them.
const SectorBytes = sectorBytes

// Payload is what request number sends when it writes n bytes at off, both whole sectors.
func Payload(number uint64, off, n int64) []byte { return payload(number, off, n) }

// Judge decides P4 for the requests of one history. It is never modified: many may ask it at
// a time.
type Judge struct{ judge *judge }

// NewJudge takes the requests in the order of their numbers. It is an error when a zeroing ran
// beside another request on its sectors: zeros carry no number.
func NewJudge(requests []Request, diskBytes int64) (*Judge, error) {
	j, err := newJudge(requests, diskBytes)
	if err != nil {
		return nil, err
	}
	return &Judge{j}, nil
}

// Decide says what is wrong with the content of a whole disk after a power cut, or nil. What
// was answered up to the stamp answered, it included, was answered before the cut; what was
// sent later may or may not have been.
func (j *Judge) Decide(content []byte, answered int64) error {
	_, err := j.judge.decide(content, crash{at: answered + 1, sentUnknown: true})
	return err
}
