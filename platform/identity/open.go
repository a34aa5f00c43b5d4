package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Names of the files, in a board's data directory. The copy is read where the file cannot be: a board that lost its key
// would be a stranger to every client that knows it.
const (
	File   = "identity.pem"
	Copy   = "identity.pem.copy"
	Beside = "identity.pem.damaged" // what was no identity any more, kept for who can read it
)

// Files is where an identity is kept.
type Files interface {
	// Read returns a file as a whole, or fs.ErrNotExist. It bounds what it reads.
	Read(name string) ([]byte, error)
	// Write puts a file that only its owner may read in place of the one of its name, whole or not at all, and returns when
	// it is durable.
	Write(name string, text []byte) error
	// Rename names a file anew, in place of one that has the name.
	Rename(name, next string) error
}

// Found says how Open came by an identity.
type Found struct {
	Made bool  // it is new
	Err  error // what is wrong with the one there was; nil: nothing
	// Unsaved is why the identity is not on the disk: the next start will have another.
	Unsaved error
}

// Open reads the identity there is, or makes one for the names and writes it down before it is returned. What is no
// identity any more is put aside, and a new one takes its place: a board that does not start is worse than one that is not
// known. An error is one that the owner can put right, such as files that may not be read.
func Open(files Files, names func() Names) (*Identity, Found, error) {
	i, err := read(files, File)
	if err == nil {
		return i, Found{}, nil
	}
	copied, copyErr := read(files, Copy)
	if copyErr == nil {
		found := Found{Err: err}
		if text, err := copied.Encode(); err != nil {
			found.Unsaved = err
		} else {
			found.Unsaved = files.Write(File, text)
		}
		return copied, found, nil
	}
	var found Found
	for name, err := range map[string]error{File: err, Copy: copyErr} {
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, ErrIdentity), errors.Is(err, syscall.EIO):
			found.Err = errors.Join(found.Err, fmt.Errorf("%s: %w", name, err))
		default:
			return nil, Found{}, fmt.Errorf("the board's key: %w", err)
		}
	}
	if i, err = New(names(), nil); err != nil {
		return nil, Found{}, err
	}
	found.Made = true
	if found.Err != nil {
		if err := files.Rename(File, Beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			found.Err = errors.Join(found.Err, err)
		}
	}
	found.Unsaved = Save(files, i)
	return i, found, nil
}

// Load reads the identity there is, and changes nothing. It returns fs.ErrNotExist where there is none.
func Load(files Files) (*Identity, error) {
	i, err := read(files, File)
	if err == nil {
		return i, nil
	}
	i, copyErr := read(files, Copy)
	if copyErr != nil && errors.Is(err, fs.ErrNotExist) {
		return nil, copyErr
	}
	if copyErr != nil {
		return nil, err
	}
	return i, nil
}

// Save puts an identity in place of the one there is. When it returns it is durable; after a cut before that it is the old
// one or the new one.
func Save(files Files, i *Identity) error {
	text, err := i.Encode()
	if err != nil {
		return err
	}
	// The copy goes first: while it is written the file is whole, and the other way round.
	return errors.Join(files.Write(Copy, text), files.Write(File, text))
}

func read(files Files, name string) (*Identity, error) {
	text, err := files.Read(name)
	if err != nil {
		return nil, err
	}
	return Parse(text)
}
