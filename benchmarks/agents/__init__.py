"""What a server gains by knowing the graph, hint by hint, on and off: `make bench-agents`.

    rows.py        the rows: a model, a hint, the server's settings
    texts.py       the pages that agents read
    agents.py      agents that are measured, and what is read off their events
    prefetch.py    rows that compute the next agent's prompt ahead
    keeping.py     rows that keep an agent's KV while its tool runs
    run.py         row after row, a server for each
    journal.py     rows that were measured before an interruption
    report.py      figures of a row, the table in the documents

Every row measures both ways on one server, turn about, with the same pages in threads of their own,
which share nothing. The server is known by its HTTP interface only.
"""
