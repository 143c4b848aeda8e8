"""Small programs that run as clients of their own process; the daemon starts them and never imports them."""
