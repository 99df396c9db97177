package main

import (
	"slices"
	"time"

	"github.com/spf13/pflag"
)

// exportOptions are the flags of serve that are about a disk. In a configuration file they may
// stand at the top, for all disks, or in an export's table.
type exportOptions struct {
	create         createOptions // --size, --journal-size, --spare, --journal, --mode: for disks to be made
	readOnly       bool
	recover        string
	commitInterval time.Duration
	acceptBacking  bool
	tlsAllow       []string // who may use the export
}

// register makes flags of the options. What they hold is the flags' default.
func (o *exportOptions) register(flags *pflag.FlagSet) {
	flags.Var(&o.create.size, "size", "make disks that do not exist, of this size")
	flags.Var(&o.create.journalSize, "journal-size", "size of a new disk's journal (default "+formatSize(defaultJournalBytes)+")")
	flags.StringVar(&o.create.journal, "journal", o.create.journal, "where the journal lies: PATH or internal (default: DISK.jnbd, else DISK's tail)")
	flags.StringVar(&o.create.mode, "mode", o.create.mode, "how writes reach their place: data, ordered or auto; changes an existing disk's mode for good (default: as it is)")
	flags.BoolVarP(&o.readOnly, "read-only", "r", o.readOnly, "serve without a single write, neither by clients nor by recovery")
	flags.StringVar(&o.recover, "recover", o.recover, "where to cut the log after a crash: prefix (the last whole request) or barrier (the last flush)")
	flags.DurationVar(&o.commitInterval, "commit-interval", o.commitInterval, "flush the log this often when no client does; 0 for never")
	flags.BoolVar(&o.acceptBacking, "accept-backing", o.acceptBacking, "serve a disk even if something else has written to it since its last use; where the journal holds nothing newer, that is read")
	flags.StringSliceVar(&o.tlsAllow, "tls-allow", o.tlsAllow, "serve only clients whose certificate is issued to this name; can be repeated")
}

// check refuses options that can't be followed.
func (o *exportOptions) check() error {
	if o.readOnly && o.create.size.given {
		return usagef("--read-only and --size: a disk can't be made without writing")
	}
	if _, err := parseMode(o.create.mode); err != nil {
		return err
	}
	if o.readOnly && o.create.mode != "" {
		return usagef("--read-only and --mode: the mode can't be changed without writing")
	}
	if o.recover != "prefix" && o.recover != "barrier" {
		return usagef("--recover %q: want prefix or barrier", o.recover)
	}
	if o.commitInterval < 0 {
		return usagef("--commit-interval %s is negative", o.commitInterval)
	}
	return nil
}

// exportSpec says what to serve under one name.
type exportSpec struct {
	name        string
	disk        string
	description string
	exportOptions
}

// plan is all that serve is asked to do, wherever it was asked.
type plan struct {
	options serveOptions
	exports []exportSpec // the default export first
}

// invocation is the command line, with the environment.
type invocation struct {
	args  []string
	base  serveOptions
	given map[string]bool // the flags that a file can't change
}

// newInvocation completes options, which the flags have set, by the environment.
func newInvocation(flags *pflag.FlagSet, options *serveOptions, args []string) (*invocation, error) {
	if err := applyEnvironment(flags); err != nil {
		return nil, err
	}
	options.listen.given(flags)
	return &invocation{args: args, base: *options, given: givenFlags(flags)}, nil
}

// plan reads the configuration file, if there is one, and puts everything together.
func (v *invocation) plan() (*plan, error) {
	p := &plan{options: v.base}
	var file *config
	if v.base.config != "" {
		var err error
		if file, err = readConfig(v.base.config); err != nil {
			return nil, err
		}
		flags := pflag.NewFlagSet("config", pflag.ContinueOnError)
		p.options.register(flags)
		if err := file.apply(flags, file.settings, v.given); err != nil {
			return nil, err
		}
		p.options.listen.given(flags)
	}
	for _, arg := range v.args {
		name, disk := splitExport(arg)
		p.exports = append(p.exports, exportSpec{name: name, disk: disk, exportOptions: p.options.exportOptions})
	}
	if file != nil {
		for _, table := range file.exports {
			spec, err := file.export(table, p.options.exportOptions, v.given)
			if err != nil {
				return nil, err
			}
			p.exports = append(p.exports, spec)
		}
	}
	if err := p.putDefaultFirst(); err != nil {
		return nil, err
	}
	return p, p.check()
}

// export reads one table.
func (c *config) export(table exportTable, base exportOptions, given map[string]bool) (exportSpec, error) {
	spec := exportSpec{name: table.name, exportOptions: base}
	flags := pflag.NewFlagSet("export", pflag.ContinueOnError)
	spec.register(flags)
	flags.StringVar(&spec.disk, "disk", "", "")
	flags.StringVar(&spec.description, "description", "", "")
	if err := c.apply(flags, table.settings, given); err != nil {
		return spec, err
	}
	if spec.disk == "" {
		return spec, usagef("%s:%d: [export.%s] has no disk", c.path, table.line, table.name)
	}
	if err := spec.check(); err != nil {
		return spec, usagef("%s:%d: [export.%s]: %w", c.path, table.line, table.name, err)
	}
	return spec, nil
}

// putDefaultFirst sorts the export of --default to the front.
func (p *plan) putDefaultFirst() error {
	if p.options.defaultExport == "" {
		return nil
	}
	i := slices.IndexFunc(p.exports, func(s exportSpec) bool { return s.name == p.options.defaultExport })
	if i < 0 {
		return usagef("--default %q: there is no export of this name", p.options.defaultExport)
	}
	first := p.exports[i]
	p.exports = slices.Insert(slices.Delete(p.exports, i, i+1), 0, first)
	return nil
}

// check refuses what can't be followed, before anything is touched.
func (p *plan) check() error {
	if len(p.exports) == 0 {
		return usagef("serve: DISK is missing")
	}
	journals := map[string]string{}
	for i, spec := range p.exports {
		for _, other := range p.exports[:i] {
			if other.name == spec.name {
				return usagef("two disks are named %q: give one another name with NAME=%s", spec.name, spec.disk)
			}
		}
		if journal := spec.create.journal; journal != "" && journal != internalJournal {
			if other, taken := journals[journal]; taken {
				return usagef("--journal %s is for one disk, not for both %s and %s", journal, other, spec.disk)
			}
			journals[journal] = spec.disk
		}
		if err := p.options.mayRestrict(&spec.exportOptions); err != nil {
			return err
		}
	}
	return p.options.check()
}
