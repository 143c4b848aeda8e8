"""Files as third parties hand them over, by what makes them. Keys and names are ours: @SERVER@, @PORT@, @CA@
and their like are filled in by the tests, which connect each file to a real server or see it refused with its
line.
"""
