"""Requests in the shapes that others have fallen for, and what becomes of each.

KEY stands for a good key. Where RFC 9112 says that it must be refused, or leaves room for two
readings, it is refused and the connection is closed. What it allows is served.
"""

from __future__ import annotations

EVENT = b'{"type":"T","data":1}'
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"15\r\n%b\r\n0\r\n\r\n" % EVENT
LENGTH = b"Content-Length: 21"

assert len(EVENT) == 21


def post(*fields: bytes, body: bytes = EVENT, line: bytes = b"POST /events HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: x", b"X-API-Key: KEY", *fields, b"", body])


def get(*fields: bytes, line: bytes = b"GET /position HTTP/1.1") -> bytes:
    return post(*fields, body=b"", line=line)


def chunks(body: bytes) -> bytes:
    return post(CHUNKED, body=body)


def lines(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


LENGTHS = {
    "two lengths": post(LENGTH, b"Content-Length: 5"),
    "the same length twice": post(LENGTH, LENGTH),
    "a list of lengths": post(b"Content-Length: 21, 5"),
    "a list of the same length": post(b"Content-Length: 21, 21"),
    "a length with a plus": post(b"Content-Length: +21"),
    "a length below zero": post(b"Content-Length: -21"),
    "a length with an underscore": post(b"Content-Length: 2_1"),
    "a length in hexadecimal": post(b"Content-Length: 0x15"),
    "a length with an exponent": post(b"Content-Length: 2e1"),
    "a length with a fraction": post(b"Content-Length: 21.0"),
    "a length with a blank in it": post(b"Content-Length: 2 1"),
    "a length after a vertical tab": post(b"Content-Length: \x0b21"),
    "a length in Arabic digits": post("Content-Length: ٢١".encode()),
    "an empty length": post(b"Content-Length:"),
    "a length of more than 64 bits": post(b"Content-Length: 18446744073709551637"),
    "a length of 1,000 digits": post(b"Content-Length: " + b"9" * 1_000),
    "a length before a blank and a colon": post(b"Content-Length : 21"),
    "a length, and one with a blank": post(b"Content-Length : 5", LENGTH),
}

CODINGS = {
    "a length and chunks": post(b"Content-Length: 5", CHUNKED, body=CHUNKS),
    "chunks and a length": post(CHUNKED, b"Content-Length: 5", body=CHUNKS),
    "chunks and a length that fits": post(CHUNKED, b"Content-Length: 31", body=CHUNKS),
    "chunks and a length for a GET": get(CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n",
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=CHUNKS),
    "chunked in two fields": post(CHUNKED, CHUNKED, body=CHUNKS),
    "gzip, and then chunked": post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "an unknown coding, and then chunked": post(b"Transfer-Encoding: x,chunked", body=CHUNKS),
    "chunked, and then gzip": post(b"Transfer-Encoding: chunked, gzip", body=CHUNKS),
    "chunked, and then nothing": post(b"Transfer-Encoding: chunked, identity", body=CHUNKS),
    "chunked, and nothing in another field": post(
        CHUNKED, b"Transfer-Encoding: identity", body=CHUNKS
    ),
    "a coding of no meaning": post(b"Transfer-Encoding: identity", body=CHUNKS),
    "a coding of no meaning and a length": post(b"Transfer-Encoding: identity", LENGTH),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "an unknown coding and a length": post(b"Transfer-Encoding: xchunked", LENGTH),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"', body=CHUNKS),
    "chunked after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;q=1", body=CHUNKS),
    "an empty coding": post(b"Transfer-Encoding:", body=b""),
    "an empty coding and a length": post(b"Transfer-Encoding:", LENGTH),
    "chunked before a blank and a colon": post(b"Transfer-Encoding : chunked", body=CHUNKS),
    "chunked with a blank, and a length": post(
        b"Transfer-Encoding : chunked", b"Content-Length: 31", body=CHUNKS
    ),
    "chunked in a folded line": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
    "an upgrade, chunks and a length": post(
        b"Connection: Upgrade", b"Upgrade: h2c", CHUNKED, b"Content-Length: 5", body=CHUNKS
    ),
    "an upgrade and two lengths": post(
        b"Connection: Upgrade", b"Upgrade: h2c", LENGTH, b"Content-Length: 5"
    ),
}

BAD_CHUNKS = {
    "a size with 0x": chunks(b"0x15\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size below zero": chunks(b"-1\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size with a plus": chunks(b"+15\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size with an underscore": chunks(b"1_5\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size that is none": chunks(b"1g\r\n%b\r\n0\r\n\r\n" % EVENT),
    "no size": chunks(b"\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size after a blank": chunks(b" 15\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size before a blank": chunks(b"15 \r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size of more than 64 bits": chunks(b"10000000000000015\r\n%b\r\n0\r\n\r\n" % EVENT),
    "a size that ends in LF": chunks(b"15\n%b\r\n0\r\n\r\n" % EVENT),
    "a size that ends in CR": chunks(b"15\r%b\r\n0\r\n\r\n" % EVENT),
    "a chunk that ends in LF": chunks(b"15\r\n%b\n0\r\n\r\n" % EVENT),
    "a chunk that does not end": chunks(b"15\r\n%b0\r\n\r\n" % EVENT),
    "a chunk that ends in something else": chunks(b"15\r\n%bXX0\r\n\r\n" % EVENT),
    "a chunk longer than its size": chunks(b"15\r\n%bzz\r\n0\r\n\r\n" % EVENT),
    "a last chunk that ends in LF": chunks(b"15\r\n%b\r\n0\n\n" % EVENT),
    "trailers that end in LF": chunks(b"15\r\n%b\r\n0\r\n\n" % EVENT),
    "an empty extension": chunks(b"15;\r\n%b\r\n0\r\n\r\n" % EVENT),
    "an extension with a NUL": chunks(b"15;\x00\r\n%b\r\n0\r\n\r\n" % EVENT),
    "an extension with a CR": chunks(b"15;a\rX\r\n%b\r\n0\r\n\r\n" % EVENT),
    "an extension that ends in LF": chunks(b"15;a=b\n%b\r\n0\r\n\r\n" % EVENT),
    "a length in a trailer": chunks(b"15\r\n%b\r\n0\r\nContent-Length: 50\r\n\r\n" % EVENT),
    "a coding in a trailer": chunks(b"15\r\n%b\r\n0\r\n%b\r\n\r\n" % (EVENT, CHUNKED)),
    "a trailer without a name": chunks(b"15\r\n%b\r\n0\r\n: 1\r\n\r\n" % EVENT),
    "a trailer with a blank in its name": chunks(b"15\r\n%b\r\n0\r\nX Y: 1\r\n\r\n" % EVENT),
}

BAD_HEADS = {
    "a folded line": get(b"X-A: a\r\n b"),
    "a folded key": lines(b"GET /position HTTP/1.1", b"Host: x", b"X-API-Key:", b" KEY"),
    "a first field after a blank": lines(b"GET /position HTTP/1.1", b" Host: x", b"X-API-Key: KEY"),
    "lines that end in LF": post(LENGTH).replace(b"\r\n", b"\n"),
    "a first line that ends in LF": get().replace(b"\r\n", b"\n", 1),
    "a field that ends in LF": get().replace(b"Host: x\r\n", b"Host: x\n"),
    "a head that ends in LF": get()[:-2] + b"\n",
    "a CR within a field": get(b"X-A: a\rX-B: b"),
    "lines that end in CR": get().replace(b"\r\n", b"\r"),
    "two CR and an LF": get().replace(b"\r\n", b"\r\r\n", 1),
    "a NUL in a value": get(b"X-A: a\0b"),
    "a control character in a value": get(b"X-A: a\x01b"),
    "a DEL in a value": get(b"X-A: a\x7fb"),
    "a NUL in a name": get(b"X\0A: b"),
    "a blank in a name": get(b"X A: b"),
    "a bracket in a name": get(b"X(A): b"),
    "no ASCII in a name": get("Xé: b".encode()),
    "no name": get(b": b"),
    "no colon": get(b"XA"),
    "a line of one blank": get(b" "),
    "no host": get().replace(b"Host: x\r\n", b""),
    "two hosts": get(b"Host: y"),
    "the same host twice": get(b"Host: x"),
    "a host with a blank": get().replace(b"Host: x", b"Host: a b"),
    "a host with a user": get().replace(b"Host: x", b"Host: a@b"),
    "a host with a path": get().replace(b"Host: x", b"Host: a/b"),
    "a list of hosts": get().replace(b"Host: x", b"Host: a, b"),
}

BAD_LINES = {
    "HTTP/0.9": b"GET /position\r\n",
    "HTTP/0.9 by name": b"GET /position HTTP/0.9\r\n\r\n",
    "HTTP/1.2": get(line=b"GET /position HTTP/1.2"),
    "HTTP/1.10": get(line=b"GET /position HTTP/1.10"),
    "HTTP/01.1": get(line=b"GET /position HTTP/01.1"),
    "http/1.1": get(line=b"GET /position http/1.1"),
    "HTTPS/1.1": get(line=b"GET /position HTTPS/1.1"),
    "what HTTP/2 begins with": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tabs": get(line=b"GET\t/position\tHTTP/1.1"),
    "a blank before it": b" " + get(),
    "a blank after it": get(line=b"GET /position HTTP/1.1 "),
    "a blank in the target": get(line=b"GET /posi tion HTTP/1.1"),
    "a NUL in the target": get(line=b"GET /posi\0tion HTTP/1.1"),
    "overlong UTF-8 in the target": get(line=b"GET /\xc0\xaf HTTP/1.1"),
    "UTF-8 in the target": get(line="GET /é HTTP/1.1".encode()),
    "no ASCII in the query": get(line=b"GET /events?from=\xff HTTP/1.1"),
    "no slash": get(line=b"GET position HTTP/1.1"),
    "a backslash": get(line=b"GET \\position HTTP/1.1"),
    "a method in small letters": get(line=b"get /position HTTP/1.1"),
    "an unknown method": get(line=b"BREW /position HTTP/1.1"),
    "a method of 70,000 letters": get(line=b"G" * 70_000 + b" / HTTP/1.1"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "every byte": bytes(range(256)),
    "what a proxy begins with": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(),
}

REFUSED = {**LENGTHS, **CODINGS, **BAD_CHUNKS, **BAD_HEADS, **BAD_LINES}

TOO_LARGE = {
    "10,000 headers": get(*(b"X-%d: y" % number for number in range(10_000))),
    "101 headers": get(*(b"X-%d: y" % number for number in range(99))),
    "a header of 70,000 bytes": get(b"X: " + b"y" * 70_000),
    "a target of 70,000 bytes": get(line=b"GET /position?" + b"x" * 70_000 + b" HTTP/1.1"),
}

SERVED: dict[str, tuple[bytes, str]] = {
    "an event": (post(LENGTH), "200 200"),
    "chunks": (post(CHUNKED, body=CHUNKS), "200 200"),
    "a length with zeros": (post(b"Content-Length: 021"), "200 200"),
    "a length between blanks": (post(b"Content-Length:\t 21 \t"), "200 200"),
    "a length with an underscore in its name": (post(LENGTH, b"Content_Length: 5"), "200 200"),
    "a coding with an underscore in its name": (
        post(LENGTH, b"Transfer_Encoding: chunked"),
        "200 200",
    ),
    "chunked in capitals": (post(b"Transfer-Encoding: CHUNKED", body=CHUNKS), "200 200"),
    "chunked in a list with an empty place": (
        post(b"Transfer-Encoding: ,chunked", body=CHUNKS),
        "200 200",
    ),
    "a chunk size with zeros": (
        chunks(b"%b15\r\n%b\r\n0\r\n\r\n" % (b"0" * 30, EVENT)),
        "200 200",
    ),
    "an extension": (chunks(b'15;a="b;\\"c"\r\n%b\r\n0\r\n\r\n' % EVENT), "200 200"),
    "a trailer": (chunks(b"15\r\n%b\r\n0\r\nX-API-Key: no\r\n\r\n" % EVENT), "200 200"),
    "a host in a trailer": (chunks(b"15\r\n%b\r\n0\r\nHost: y\r\n\r\n" % EVENT), "200 200"),
    "chunks over HTTP/1.0": (
        post(CHUNKED, b"Connection: keep-alive", line=b"POST /events HTTP/1.0", body=CHUNKS),
        "200",
    ),
    "HTTP/1.0": (get(line=b"GET /position HTTP/1.0"), "200"),
    "HTTP/1.0 without a host": (b"GET /position HTTP/1.0\r\nX-API-Key: KEY\r\n\r\n", "200"),
    "a GET with a body": (get(b"Content-Length: 5") + b"hello", "200 200"),
    "a GET with chunks": (get(CHUNKED) + b"0\r\n\r\n", "200 200"),
    "an empty host": (get().replace(b"Host: x", b"Host:"), "200 200"),
    "an address and a port": (get().replace(b"Host: x", b"Host: [::1]:80"), "200 200"),
    "an empty line before it": (b"\r\n\r\n" + get(), "200 200"),
    "two blanks": (get(line=b"GET  /position  HTTP/1.1"), "200 200"),
    "no ASCII in a value": (get(b"X-A: \xff\xfe"), "200 200"),
    "an absolute form": (get(line=b"GET http://x/position HTTP/1.1"), "200 200"),
    "an absolute form of another host": (get(line=b"GET http://y/position HTTP/1.1"), "200 200"),
    "an absolute form with a user": (get(line=b"GET http://u:p@x/position HTTP/1.1"), "200 200"),
    "an asterisk": (get(line=b"GET * HTTP/1.1"), "404 200"),
    "an asterisk for OPTIONS": (get(line=b"OPTIONS * HTTP/1.1"), "404 200"),
    "TRACE": (get(b"X-A: echo", line=b"TRACE /position HTTP/1.1"), "405 200"),
    "CONNECT to a path": (get(line=b"CONNECT /position HTTP/1.1"), "405"),
    "OPTIONS": (get(line=b"OPTIONS /position HTTP/1.1"), "204 200"),
    "two slashes": (get(line=b"GET //position HTTP/1.1"), "200 200"),
    "a step up": (get(line=b"GET /x/../position HTTP/1.1"), "404 200"),
    "an encoded step up": (get(line=b"GET /x/%2e%2e/position HTTP/1.1"), "404 200"),
    "an encoded NUL": (get(line=b"GET /position%00 HTTP/1.1"), "404 200"),
    "an encoded CR and LF": (get(line=b"GET /%0d%0aX-A:%20b HTTP/1.1"), "404 200"),
    "a percent sign": (get(line=b"GET /% HTTP/1.1"), "404 200"),
    "a percent sign and no digits": (get(line=b"GET /%zz HTTP/1.1"), "404 200"),
    "encoded overlong UTF-8": (get(line=b"GET /%c0%afposition HTTP/1.1"), "404 200"),
    "an encoded NUL in the query": (get(line=b"GET /events?from=1%00 HTTP/1.1"), "400 200"),
    "a fragment": (get(line=b"GET /position#x HTTP/1.1"), "200 200"),
    "an upgrade": (get(b"Connection: Upgrade", b"Upgrade: h2c"), "200"),
    "an upgrade with a body": (post(b"Connection: Upgrade", b"Upgrade: h2c", LENGTH), "200"),
    "an upgrade with chunks": (
        post(b"Connection: Upgrade", b"Upgrade: websocket", CHUNKED, body=CHUNKS),
        "200",
    ),
    "an expectation": (post(b"Expect: 100-continue", LENGTH), "200 200"),
    "an unknown expectation": (post(b"Expect: tea", LENGTH), "200 200"),
    "the end": (get(b"Connection: close"), "200"),
    "the end, twice": (get(b"Connection: keep-alive", b"Connection: close"), "200"),
    "a key that is for one hop": (get(b"Connection: X-API-Key"), "200 200"),
    "another method by its name": (
        post(b"X-HTTP-Method-Override: DELETE", LENGTH),
        "200 200",
    ),
    "two keys": (get(b"X-API-Key: KEY"), "401 200"),
    "no key": (get().replace(b"X-API-Key", b"X-API_Key"), "401 200"),
}
"""With the statuses of the answers: its own, and that to a last request, which closes."""
