package cli

import "io"

// calm writes what a machine has printed to a terminal of the host's: text and colours. A terminal does more for whoever writes to it:
// it answers questions as if somebody had typed, takes what is pasted, opens addresses, and gets another title.
type calm struct {
	to   io.Writer
	seen []byte // of a sequence that has begun, at most longestColour of it
	at   calmState
}

type calmState int

const (
	inText    calmState = iota
	afterESC            // what kind of sequence it is comes next
	inControl           // ESC [ ... up to a letter
	inString            // ESC ] and others ... up to BEL or ESC \
	endString           // ESC in it
	afterC2             // the first byte of U+0080 to U+00BF: controls, or letters
)

// longestColour bounds what is kept of a sequence.
const longestColour = 64

func (c *calm) Write(text []byte) (int, error) {
	var out []byte
	for _, b := range text {
		out = c.next(out, b)
	}
	_, err := c.to.Write(out)
	return len(text), err
}

// next takes one byte, and appends to out what of it is harmless by now.
func (c *calm) next(out []byte, b byte) []byte {
	switch c.at {
	case inText:
		switch {
		case b == 0x1b:
			c.at = afterESC
		case b == 0xc2:
			c.at = afterC2
		case b >= ' ' && b != 0x7f, b == '\n', b == '\r', b == '\t', b == '\b':
			out = append(out, b)
		}
	case afterESC:
		c.at, c.seen = inText, c.seen[:0]
		switch b {
		case '[':
			c.at = inControl
		case ']', 'P', 'X', '^', '_':
			c.at = inString
		}
	case inControl:
		if b == '\n' {
			c.at = inText
			return append(out, b)
		}
		if len(c.seen) < longestColour {
			c.seen = append(c.seen, b)
		}
		if b >= '@' && b <= '~' {
			if b == 'm' && len(c.seen) < longestColour {
				out = append(append(out, "\x1b["...), c.seen...)
			}
			c.at = inText
		}
	case inString, endString:
		switch {
		case b == 0x07, c.at == endString && b == '\\':
			c.at = inText
		case b == '\n': // or one without end would hide all that follows
			c.at, out = inText, append(out, b)
		case b == 0x1b:
			c.at = endString
		default:
			c.at = inString
		}
	case afterC2:
		c.at, c.seen = inText, c.seen[:0]
		switch {
		case b == 0x9b:
			c.at = inControl
		case b == 0x9d || b == 0x90 || b == 0x98 || b == 0x9e || b == 0x9f:
			c.at = inString
		case b >= 0xa0 && b < 0xc0:
			out = append(out, 0xc2, b)
		case b < 0x80:
			out = c.next(out, b)
		}
	}
	return out
}
