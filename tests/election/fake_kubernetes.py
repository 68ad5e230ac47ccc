#!/usr/bin/env python3
"""Leases of a Kubernetes API server, as far as one record needs them: get, create, update with resourceVersion.

Prints its port as the first line. With a certificate and a key it speaks TLS.   usage: fake_kubernetes.py [CERT KEY]
"""
import http.server
import json
import re
import ssl
import sys
import threading

LEASES = re.compile(r"/apis/coordination\.k8s\.io/v1/namespaces/([a-z0-9-]+)/leases(?:/([a-z0-9.-]+))?$")
leases, lock, versions = {}, threading.Lock(), iter(range(100, 1 << 30))


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, reason):
        self.reply(status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "code": status})

    def serve(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        path = LEASES.match(self.path)
        if path is None:
            return self.refuse(404, "the server could not find the requested resource")
        namespace, name = path.groups()
        if namespace == "forbidden":
            return self.refuse(403, "leases is forbidden: this account cannot do that")
        with lock:
            return self.on_lease(namespace, name, body)

    def on_lease(self, namespace, name, body):
        if self.command == "POST":
            name = body["metadata"]["name"]
        known = leases.get((namespace, name))
        if self.command == "GET":
            return self.reply(200, known) if known else self.refuse(404, f'leases "{name}" not found')
        if self.command == "POST" and known:
            return self.refuse(409, f'leases "{name}" already exists')
        if self.command == "PUT" and not known:
            return self.refuse(404, f'leases "{name}" not found')
        if body["kind"] != "Lease" or body["apiVersion"] != "coordination.k8s.io/v1" or body["metadata"]["namespace"] != namespace:
            return self.refuse(400, "the object is not a Lease of this namespace")
        if not isinstance(body["spec"]["leaseDurationSeconds"], int) or body["spec"]["leaseDurationSeconds"] < 1:
            return self.refuse(422, "spec.leaseDurationSeconds must be greater than 0")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["spec"]["renewTime"]):
            return self.refuse(400, "spec.renewTime is no MicroTime")
        if self.command == "PUT" and body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            return self.refuse(409, "the object has been modified; please apply your changes to the latest version and try again")
        body["metadata"]["resourceVersion"] = str(next(versions))
        leases[namespace, name] = body
        return self.reply(201 if self.command == "POST" else 200, body)

    do_GET = do_POST = do_PUT = serve

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
if len(sys.argv) == 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
