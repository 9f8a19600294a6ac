"""Whether reuse keeps what it promises, per tenant, and what follows when it does not; pure."""
