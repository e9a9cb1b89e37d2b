package amqp

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"strconv"
)

// clip is a connection whose reader never sees a body larger than max: a header that
// announces one is passed on with a stub for a body, and the body is read and
// dropped. The AMQP library would hold it whole before anybody could refuse it.
//
// Frames are those of AMQP 0-9-1, section 4.2.3: type, channel, size, payload, end.
type clip struct {
	net.Conn
	max  uint64
	mark []byte // stubs begin with it; nobody else knows it

	from    *bufio.Reader
	ready   bytes.Buffer      // whole, to be read first
	through uint64            // bytes of the frame that is being passed on
	drop    map[uint16]uint64 // channel: bytes of its body that are still to come
	broken  bool              // not AMQP: passed on as it is
}

const (
	frameMethod, frameHeader, frameBody, frameHeartbeat = 1, 2, 3, 8
	frameHead                                           = 7
	frameEnd                                            = 0xCE
	// bodySizeAt is where a header frame's payload has it: after class and weight.
	bodySizeAt = 4
	// maxHeaderFrame is more than any frame that was agreed on.
	maxHeaderFrame = 1 << 20
)

func newClip(conn net.Conn, max uint64) *clip {
	mark := append([]byte{0}, rand.Text()...)
	return &clip{Conn: conn, max: max, mark: mark, from: bufio.NewReaderSize(conn, 16<<10), drop: map[uint16]uint64{}}
}

// size tells how large the body was that a stub stands for.
func (c *clip) size(body []byte) (size uint64, stub bool) {
	text, stub := bytes.CutPrefix(body, c.mark)
	if !stub {
		return 0, false
	}
	size, err := strconv.ParseUint(string(text), 10, 64)
	return size, err == nil
}

// Read implements io.Reader.
func (c *clip) Read(p []byte) (int, error) {
	for {
		switch {
		case c.ready.Len() > 0:
			return c.ready.Read(p)
		case c.broken:
			return c.from.Read(p)
		case c.through > 0:
			n, err := c.from.Read(p[:min(uint64(len(p)), c.through)])
			c.through -= uint64(n)
			return n, err
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
}

// next decides about the next frame.
func (c *clip) next() error {
	head, err := c.from.Peek(frameHead)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			c.broken = true
			return nil
		}
		return err
	}
	channel, size := binary.BigEndian.Uint16(head[1:]), uint64(binary.BigEndian.Uint32(head[3:]))
	switch kind := head[0]; {
	case kind == frameBody && c.drop[channel] > 0:
		if _, err := io.CopyN(io.Discard, c.from, int64(frameHead+size+1)); err != nil {
			return err
		}
		if c.drop[channel] -= min(size, c.drop[channel]); c.drop[channel] == 0 {
			delete(c.drop, channel)
		}
		// A body may take longer to pass than the library waits for a sign of life,
		// and the broker sends no other meanwhile.
		c.ready.Write([]byte{frameHeartbeat, 0, 0, 0, 0, 0, 0, frameEnd})
	case kind == frameHeader && size >= bodySizeAt+8 && size <= maxHeaderFrame:
		delete(c.drop, channel)
		frame := make([]byte, frameHead+size+1)
		if _, err := io.ReadFull(c.from, frame); err != nil {
			return err
		}
		announced := frame[frameHead+bodySizeAt:][:8]
		body := binary.BigEndian.Uint64(announced)
		if body <= c.max {
			c.ready.Write(frame)
			return nil
		}
		c.drop[channel] = body
		stub := strconv.AppendUint(bytes.Clone(c.mark), body, 10)
		binary.BigEndian.PutUint64(announced, uint64(len(stub)))
		c.ready.Write(frame)
		head := [frameHead]byte{frameBody}
		binary.BigEndian.PutUint16(head[1:], channel)
		binary.BigEndian.PutUint32(head[3:], uint32(len(stub)))
		c.ready.Write(head[:])
		c.ready.Write(stub)
		c.ready.WriteByte(frameEnd)
	case kind == frameMethod, kind == frameHeader, kind == frameBody, kind == frameHeartbeat:
		if kind == frameMethod {
			delete(c.drop, channel) // which ends a body that is not complete
		}
		c.through = frameHead + size + 1
	default:
		c.broken = true // the library says what is wrong
	}
	return nil
}
