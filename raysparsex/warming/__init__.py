"""Computing documents on a server before anybody asks about them."""
