package powercut

// Rebuild makes image files of one state of a recording, for other tools: the backing is
// path, a journal beside it path.jnbd.
func Rebuild(rec *Recording, state State, path string) error {
	r := newReplay(rec, Honest)
	defer r.end()
	if err := r.reach(state); err != nil {
		return err
	}
	return writeImages(r.group.Image(state.Image), path)
}
