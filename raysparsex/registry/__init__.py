"""WHO holds a segment: a pure state machine, events in, answers out. Holds records, never bytes."""
