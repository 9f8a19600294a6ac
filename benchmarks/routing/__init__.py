"""Our router beside Ray's, on real replicas with the same traffic: `make bench-routing`.

    workload.py         what agents ask about which documents
    configurations.py   the rows: router, reuse, memory
    server.py           a server with the settings of one row
    client.py           streamed requests, and what is asked around them
    run.py              all agents at once, row after row
    outcomes.py         what is noted of a request; figures of a row, differences of two
    journal.py          rows that were measured before an interruption
    result.py           everything that is told of a run
    report.py           the tables in the documents

The server is known by its HTTP interface only. Each row is one server start.
"""
