"""Ways in which somebody might try to reach a tenant by its name, or with a key out of place."""

from __future__ import annotations

import base64

from tests.hostile.tenants import Resident

METHODS = [
    *(b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"POST", b"PUT", b"DELETE", b"PATCH"),
    *(b"CONNECT", b"PROPFIND", b"COPY", b"MOVE", b"SEARCH", b"PURGE"),
]


def paths(of: Resident) -> list[bytes]:
    """Every route, and every place where the tenant's name might mean something."""
    name, subscription = of.name, of.subscription
    texts = [
        "/",
        "/events",
        "/events/batch",
        "/events?from=1",
        "/events?from=0&to=10",
        "/events/stream?from=1",
        "/events/stream?from=1&batch_size=1",
        "/position",
        "/metrics",
        "/tenants",
        "/health",
        "/openapi.json",
        "/streams",
        f"/streams?prefix={name}",
        f"/events?stream={name}",
        f"/events?type={of.type}&stream_prefix=",
        f"/events?from=1&direction=backward&tenant={name}",
        "/events?last=5",
        "/events?from=1&type=Nobody&wait=1ms",
        f"/events/stream?stream_prefix={name}&last=5",
        "/subscriptions",
        f"/subscriptions?prefix={name}",
        f"/subscriptions/{subscription}",
        f"/subscriptions/{name}",
        f"/subscriptions/{subscription}/lease",
        f"/subscriptions/{subscription}/lease?tenant={name}",
        f"/subscriptions/{subscription}/lease/{of.lease}/ack",
        f"/subscriptions/{subscription}/lease/{of.lease}/extend",
        f"/subscriptions/{subscription}/lease/{of.lease}/release",
        f"/subscriptions/{subscription}/parked/1/redeliver",
        f"/subscriptions/{subscription}/parked/1",
        "/subscriptions/s/position",
        f"/subscriptions/{subscription}/position",
        f"/subscriptions/{name}/position",
        f"/subscriptions/{name}%2F{subscription}/position",
        f"/subscriptions/{name}:{subscription}/position",
        f"/subscriptions/..%2F{name}/position",
        f"/subscriptions/%2e%2e/{name}/position",
        f"/subscriptions/{subscription}%00/position",
        f"/subscriptions/{subscription}'%20OR%20'1'='1/position",
        f"/subscriptions/s'%20OR%20name='{subscription}/position",
        *(
            f"/{name}",
            f"/{name}/events?from=1",
            f"/tenants/{name}",
            f"/tenants/{name}/events?from=1",
        ),
        *(
            f"/events/{name}",
            f"/events/{name}?from=1",
            f"//{name}/events?from=1",
            f"/metrics/{name}",
        ),
        f"/data/{name}.db",
        f"/{name}.db",
        f"/data/{name}.db-wal",
        "/tenants.yaml",
        f"/../data/{name}.db",
        f"/%2e%2e/data/{name}.db",
        f"/events/../../data/{name}.db",
        f"/..%2f..%2fdata%2f{name}.db",
        f"/%252e%252e/data/{name}.db",
        f"/..\\data\\{name}.db",
        f"/%c0%ae%c0%ae/data/{name}.db",
        "/%2e%2e/tenants.yaml",
        "/static/..%2Ftenants.yaml",
        f"/events;tenant={name}?from=1",
        f"/events%3Ftenant={name}",
        f"/events%00{name}?from=1",
        f"http://{name}/events?from=1",
        f"http://{name}@x/events?from=1",
        f"/events?from={name}",
        *(
            f"/events?from=1&tenant={name}",
            f"/events?tenant={name}&from=1",
            f"/metrics?tenant={name}",
        ),
        f"/events/stream?from=1&tenant={name}&batch_size=2",
        f"/tenants?tenant={name}",
        f"/events?from=1&to={name}",
        f"/events?{name}=1",
        f"/events?from=1&from={name}",
        f"/events?from=1%20UNION%20SELECT%20*%20FROM%20{name}",
        f"/events?from=1#{name}",
        *(
            f"/position?database={name}.db",
            f"/health?tenant={name}",
            f"/openapi.json?tenant={name}",
        ),
        f"/events/stream?from=1&batch_size={name}",
    ]
    return [text.encode() for text in texts]


def naming_fields(of: Resident) -> list[bytes]:
    """Headers that name a tenant, or another place, without a key."""
    name = of.name
    texts = [
        f"Host: {name}",
        f"Host: {name}:80",
        f"X-Tenant: {name}",
        f"X-Tenant-ID: {name}",
        f"Tenant: {name}",
        f"X-User: {name}",
        f"Cookie: tenant={name}; session={name}",
        f"X-Forwarded-User: {name}",
        f"From: {name}@x",
        f"X-Forwarded-Host: {name}",
        f"Forwarded: for=1.2.3.4;host={name}",
        f"Via: 1.1 {name}",
        f"X-Forwarded-For: {name}",
        f"X-Real-IP: {name}",
        "X-Forwarded-For: 127.0.0.1",
        f"X-Original-URL: /tenants/{name}",
        f"X-Rewrite-URL: /tenants/{name}/events?from=1",
        f"X-Forwarded-Prefix: /{name}",
        f"X-Script-Name: /{name}",
        f"Referer: http://{name}/",
        f"Origin: http://{name}",
        f"User-Agent: {name}",
        f"Accept: text/html, {name}",
        *(
            f"X-HTTP-Method-Override: {name}",
            "X-HTTP-Method-Override: DELETE",
            f"Range: {name}=0-9",
        ),
        "Range: bytes=0-9",
        f'If-None-Match: "{name}"',
        "If-None-Match: *",
        "Accept: */*;q=0",
        f"Accept-Language: {name}",
        "Accept-Encoding: gzip",
        "Accept-Encoding: zstd",
        f"Content-Location: /{name}",
        f"X-Database: {name}.db",
        f"X-Request-ID: {name}",
        f"traceparent: 00-{name}-00-01",
        f"X-Debug: {name}",
        "Max-Forwards: 0",
    ]
    return [text.encode() for text in texts]


def fields_with_his_key(of: Resident) -> list[bytes]:
    """Headers that hold the tenant's key, or nearly, but not as a key is sent."""
    key = of.key
    basic = base64.b64encode(f"{of.name}:{key}".encode()).decode()
    as_user = base64.b64encode(f"{key}:".encode()).decode()
    texts = [
        *(
            f"Authorization: {key}",
            f"Authorization: Basic {basic}",
            f"Authorization: Basic {as_user}",
        ),
        *(
            f"Authorization: Token {key}",
            f"Authorization: Bearer{key}",
            f"Authorization: Bearer:{key}",
        ),
        f"Authorization: Bearer {key},",
        f"Authorization: Bearer {key} {key}",
        f'Authorization: Bearer "{key}"',
        f"Authorization: Bearer {key[:-1]}",
        f"Authorization: Bearer {key}x",
        f"Authorization: Bearer {key.upper()}",
        f"Proxy-Authorization: Bearer {key}",
        f"Cookie: X-API-Key={key}",
        f"X-API_Key: {key}",
        f"X_API_KEY: {key}",
        f"API-Key: {key}",
        f"ApiKey: {key}",
        f"Key: {key}",
        f"X-Key: {key}",
        f"X-Auth-Token: {key}",
        f"HTTP-X-API-Key: {key}",
        f"Sec-WebSocket-Protocol: {key}",
        f"From: {key}",
        f"Referer: http://x/?X-API-Key={key}",
        f"User-Agent: {key}",
    ]
    return [text.encode() for text in texts]


def bodies(of: Resident) -> list[bytes]:
    """Bodies that name the tenant where nobody asks for it."""
    name = of.name.encode()
    return [
        b'{"type":"T","data":1,"tenant":"%b"}' % name,
        b'[{"type":"T","data":1,"tenant":"%b"}]' % name,
        b'{"position":1,"tenant":"%b"}' % name,
        b'{"tenant":"%b"}' % name,
        b'{"type":5,"data":"%b"}' % name,
        b'{"type":"T","data":1,"id":"%b","metadata":5}' % name,
        b'{"type":"T","data":1,"stream":"%b","expected_version":-1}' % name,
        b'{"events":[{"type":"T","data":1}],"expected_versions":{"%b":-1}}' % name,
        b'{"type":"%b\\n","data":1}' % name,
        b'{"type":"T","data":1,"timestamp":"%b"}' % name,
        b'{"type":"T","data":1,"%b":1,"timestamp":1}' % name,
        b'{"position":"%b"}' % name,
        b'[null,"%b"]' % name,
        b'"%b"' % name,
        b"%b" % name,
        b'{"type":"T","data":"%b' % name,
        b'{"type":"T","data":"%b\xff"}' % name,
    ]
