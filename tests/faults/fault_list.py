"""All faults: the registry from which tests draw and the table is made."""

from __future__ import annotations

import faults_of_clocks
import faults_of_databases
import faults_of_messages
import faults_of_networks
import faults_of_processes
import faults_of_stores
from fault import Fault

FAMILIES = {
    "processes": faults_of_processes.FAULTS,
    "messages": faults_of_messages.FAULTS,
    "networks": faults_of_networks.FAULTS,
    "the coordinator's store": faults_of_stores.FAULTS,
    "the banks' databases": faults_of_databases.FAULTS,
    "clocks": faults_of_clocks.FAULTS,
}
FAULTS: dict[str, Fault] = {fault.name: fault for family in FAMILIES.values() for fault in family}

NOT_YET = {
    "partition-tc-store": "coordinator cut off from its store: needs a store that is reached by network",
    "store-failover": "the store fails over to another server: needs such a store",
}
