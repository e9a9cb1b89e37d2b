package transforms

import (
	"maps"
	"strings"
)

// Masked stands in a document where a secret was that has been taken out.
const Masked = "***"

// MaxSecret is the length of one token, API key or value of a header, in bytes.
const MaxSecret = 1 << 13

// TakeSecrets takes the tokens, API keys, values of HTTP headers and addresses of
// proxies that have a password out of the document and leaves [Masked] in their places: what is left may be stored and
// shown. It refuses a document whose secrets had been taken out before, which is
// what somebody has who submits what he was shown.
func (f *JobFile) TakeSecrets() (Secrets, error) {
	s := Secrets{Call: f.Function}
	f.Function = nil
	put := func(to *map[string]string, field, name string, secret *string) error {
		switch *secret {
		case "":
			return nil
		case Masked:
			return inField(field, problem("%s only says that there was a secret; write it, or leave the field out", Masked))
		}
		if *to == nil {
			*to = make(map[string]string)
		}
		(*to)[name], *secret = *secret, Masked
		return nil
	}
	each := func(to *map[string]map[string]string, field, name string, texts map[string]string, secret func(string) bool) error {
		var kept map[string]string
		for key, value := range texts {
			if !secret(value) {
				continue
			}
			if err := put(&kept, field+"."+key, key, &value); err != nil {
				return err
			}
			texts[key] = value
		}
		if kept != nil {
			if *to == nil {
				*to = make(map[string]map[string]string)
			}
			(*to)[name] = kept
		}
		return nil
	}
	any := func(string) bool { return true }
	withPassword := func(s string) bool { return s == Masked || strings.Contains(s, "@") }
	for i := range f.Girders {
		g := &f.Girders[i]
		if err := put(&s.Tokens, "girder.token", g.Name, &g.Token); err != nil {
			return s, err
		}
		if err := put(&s.APIKeys, "girder.api_key", g.Name, &g.APIKey); err != nil {
			return s, err
		}
		headers, proxies := textMap(g.Session["headers"]), textMap(g.Session["proxies"])
		if err := each(&s.Headers, "girder.session.headers", g.Name, headers, any); err != nil {
			return s, err
		}
		if err := each(&s.Proxies, "girder.session.proxies", g.Name, proxies, withPassword); err != nil {
			return s, err
		}
		if len(headers)+len(proxies) > 0 {
			g.Session = maps.Clone(g.Session)
			for key, texts := range map[string]map[string]string{"headers": headers, "proxies": proxies} {
				if len(texts) > 0 {
					g.Session[key] = anyMap(texts)
				}
			}
		}
	}
	return s, f.eachPipe(func(field, name string, p *Pipe) error {
		if p.Headers == nil {
			return nil
		}
		p.Headers = maps.Clone(p.Headers)
		return each(&s.Headers, field+".headers", name, p.Headers, any)
	})
}

// withoutSecrets is a session as the plan has it.
func withoutSecrets(session map[string]any) map[string]any {
	rest := maps.Clone(session)
	delete(rest, "headers")
	proxies := textMap(session["proxies"])
	maps.DeleteFunc(proxies, func(_, address string) bool { return address == Masked })
	if delete(rest, "proxies"); len(proxies) > 0 {
		rest["proxies"] = anyMap(proxies)
	}
	if len(rest) == 0 {
		return nil
	}
	return rest
}
