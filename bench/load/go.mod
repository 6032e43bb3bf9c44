module troth/bench/load

go 1.22
