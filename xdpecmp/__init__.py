"""Linux multipath routing at XDP speed."""
