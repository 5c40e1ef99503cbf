package bonafide.policies

import rego.v1

# Deny beats allow, and what no rule allows is denied. A request with a fault is denied for itself.
default allow := false

allow if {
	count(allows) > 0
	count(denies) == 0
	not input.bonafide.fault
}

reasons := denies if count(denies) > 0

else := allows

allows contains _ if false

denies contains _ if false

denies contains "ledger/closed" if {
	object.get(input.bonafide, ["callee", "labels", "app"], null) == "ledger"
	clause_1
}

allows contains "ledger/readers" if {
	object.get(input.bonafide, ["callee", "labels", "app"], null) == "ledger"
	object.get(input.bonafide, ["who", "labels", "tier"], null) == "web"
	input.bonafide.can in {"GET", "HEAD"}
	clause_2
}

clause_1 if {
	list := input.bonafide.on.segments
	count(list) >= 2
	list[0] == "v1"
	list[1] == "closed"
}

clause_2 if {
	list := input.bonafide.on.segments
	count(list) >= 1
	list[0] == "v1"
}
