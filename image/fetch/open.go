package fetch

import (
	"context"
	"io"
	"net/http"
)

// Open gives the file at a URL as it comes, of which nothing is known before; its size is -1 where the server does not say.
func Open(ctx context.Context, file, agent string) (body io.ReadCloser, size int64, err error) {
	at, err := CheckURL(file)
	if err != nil {
		return nil, 0, err
	}
	c, err := New(Server{Name: at.Host, URL: "https://" + at.Host, Agent: agent})
	if err != nil {
		return nil, 0, err
	}
	answer, end, err := c.ask(ctx, at.Path, http.Header{"Accept-Encoding": {"identity"}})
	if err != nil {
		return nil, 0, err
	}
	if err := check(answer); err != nil {
		answer.Body.Close()
		end()
		return nil, 0, err
	}
	return &opened{answer.Body, end}, answer.ContentLength, nil
}

// opened is a body that ends its request.
type opened struct {
	io.ReadCloser
	end func()
}

func (o *opened) Close() error {
	defer o.end()
	return o.ReadCloser.Close()
}
