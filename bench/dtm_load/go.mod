module troth/bench/dtm_load

go 1.21
