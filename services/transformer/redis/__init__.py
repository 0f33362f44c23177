"""A client of Redis for lookups: reads alone, many at a time on few connections, each with an end.

client      what the store asks; chosen by the address
single      one server, given or named by Sentinels │ cluster: many, by slots │ cached: before either of them
kept        rows of that cache while nobody answers
flights     what is being read by somebody already is not read twice
node, lane  a server with its breaker; a connection to it that is made anew when it is lost
connection  bytes out, replies in, in order
"""
