"""What an OpenVPN server says on its management socket, and what it can be told (management-notes.txt)."""
