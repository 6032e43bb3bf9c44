package main

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/dtm-labs/client/dtmcli"
	_ "github.com/go-sql-driver/mysql"
	_ "github.com/lib/pq"
)

// bank has accounts in a real database, beside the barrier's table.
type bank struct {
	conf dtmcli.DBConf
	db   *sql.DB
}

type movement struct {
	Name   string `json:"name"`
	Amount int    `json:"amount"`
}

var tables = map[string][]string{
	"mysql": {
		`create table if not exists account (name varchar(45) primary key, balance int not null, frozen int not null)`,
		`create table if not exists barrier (id bigint primary key auto_increment, trans_type varchar(45) default '',
		 gid varchar(128) default '', branch_id varchar(128) default '', op varchar(45) default '',
		 barrier_id varchar(45) default '', reason varchar(45) default '', create_time datetime default now(),
		 update_time datetime default now(), unique key (gid, branch_id, op, barrier_id))`,
	},
	"postgres": {
		`create table if not exists account (name varchar(45) primary key, balance int not null, frozen int not null)`,
		`create table if not exists barrier (id bigserial primary key, trans_type varchar(45) default '',
		 gid varchar(128) default '', branch_id varchar(128) default '', op varchar(45) default '',
		 barrier_id varchar(45) default '', reason varchar(45) default '', create_time timestamp(0) default now(),
		 update_time timestamp(0) default now(), constraint uniq_barrier unique (gid, branch_id, op, barrier_id))`,
	},
}

func openBank(address string) *bank {
	if address == "" {
		return nil
	}
	parsed, err := url.Parse(address)
	must(err)
	port, err := strconv.ParseInt(parsed.Port(), 10, 64)
	must(err)
	password, _ := parsed.User.Password()
	driver := map[string]string{"mysql": "mysql", "postgresql": "postgres"}[parsed.Scheme]
	conf := dtmcli.DBConf{Driver: driver, Host: parsed.Hostname(), Port: port, User: parsed.User.Username(),
		Password: password, Db: strings.TrimPrefix(parsed.Path, "/"), Schema: "public"}
	dtmcli.SetCurrentDBType(driver)
	dtmcli.SetBarrierTableName("barrier")
	db, err := sql.Open(driver, dsn(conf))
	must(err)
	for _, statement := range tables[driver] {
		_, err := db.Exec(statement)
		must(err)
	}
	return &bank{conf: conf, db: db}
}

func dsn(c dtmcli.DBConf) string {
	if c.Driver == "mysql" {
		return fmt.Sprintf("%s:%s@tcp(%s:%d)/%s?parseTime=true", c.User, c.Password, c.Host, c.Port, c.Db)
	}
	return fmt.Sprintf("host=%s port=%d user=%s password=%s dbname='%s' sslmode=disable",
		c.Host, c.Port, c.User, c.Password, c.Db)
}

var changes = map[string]string{
	"action":     "balance = balance + %d",
	"compensate": "balance = balance - %d",
	"rollback":   "balance = balance - %d",
	"msg":        "balance = balance + %d",
	"try":        "frozen = frozen + %d",
	"confirm":    "frozen = frozen - %[1]d, balance = balance + %[1]d",
	"commit":     "frozen = frozen - %[1]d, balance = balance + %[1]d",
	"cancel":     "frozen = frozen - %d",
}

type executor interface {
	Exec(query string, args ...any) (sql.Result, error)
	QueryRow(query string, args ...any) *sql.Row
}

// move does what `op` means for one account; an account may not go below zero.
func move(db executor, op string, m movement) error {
	change, known := changes[op]
	if !known {
		return fmt.Errorf("no such op: %s", op)
	}
	name := strings.ReplaceAll(m.Name, "'", "''")
	_, err := db.Exec("update account set " + fmt.Sprintf(change, m.Amount) + " where name = '" + name + "'")
	if err != nil {
		return err
	}
	var balance, frozen int
	err = db.QueryRow("select balance, frozen from account where name = '"+name+"'").Scan(&balance, &frozen)
	if errors.Is(err, sql.ErrNoRows) || (err == nil && balance+min(frozen, 0) < 0) {
		return fmt.Errorf("%s has not enough: %w", m.Name, dtmcli.ErrFailure)
	}
	return err
}

// underXa does the work of an XA branch by `start`, and comes back when its connection has gone. MariaDB lets go of what
// is prepared only then; the client takes "no such XA transaction" for one that is done already, so a second phase
// that came earlier would be lost.
func (b *bank) underXa(start func(work func(*sql.DB) error) error, m movement) error {
	var connection int64
	err := start(func(db *sql.DB) error {
		if b.conf.Driver == "mysql" {
			if err := db.QueryRow("select connection_id()").Scan(&connection); err != nil {
				return err
			}
		}
		return move(db, "action", m)
	})
	for open := 1; connection != 0 && open > 0; {
		listed := b.db.QueryRow("select count(*) from information_schema.processlist where id = ?", connection)
		if failed := listed.Scan(&open); failed != nil {
			return failed
		}
	}
	return err
}

func (b *bank) guarded(barrier *dtmcli.BranchBarrier, m movement) error {
	return barrier.CallWithDB(b.db, func(tx *sql.Tx) error { return move(tx, barrier.Op, m) })
}
