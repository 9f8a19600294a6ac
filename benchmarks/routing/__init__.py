"""Our router beside Ray's, on real replicas with the same traffic: `make bench-routing`.

    workload ──► configuration: a server of its own, agents ──► journal ──► rows ──► report
    who asks what   which router, what is reused                  per request   means, differences

Each row is one server start. All rows get the same requests, each agent's in the same order.
"""
