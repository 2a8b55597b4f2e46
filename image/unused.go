package image

import "path/filepath"

// Unused lists the paths of what Sweep would delete: what interrupted imports and removals left, and layers that no
// image has.
func (s *Store) Unused() (paths []string, err error) {
	if !exists(s.Dir) {
		return nil, nil
	}
	err = s.locked(func() error {
		if paths, err = s.leftovers(); err != nil {
			return err
		}
		parts, err := s.abandonedBlobs()
		if paths = append(paths, parts...); err != nil {
			return err
		}
		names, err := s.unreferenced()
		for _, layer := range names {
			paths = append(paths, filepath.Join(s.Dir, layersName, layer))
		}
		return err
	})
	return paths, err
}
