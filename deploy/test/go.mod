module highwire/deploy/test

go 1.26.0
