"""strongSwan: IPsec with IKEv2 and IKEv1."""
