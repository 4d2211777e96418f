package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"runtime/pprof"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.SetOutput(out)
	pattern := flags.String("run", ".", "`regexp` of the comparisons to run")
	rounds := flags.Int("rounds", 7, "rounds; the median counts")
	length := flags.Duration("time", 400*time.Millisecond, "length of one turn of one side")
	url := flags.String("redis", "", "`URL` of a standalone server (default: start one)")
	file := flags.String("json", "", "`file` to write the figures to as well")
	profile := flags.String("cpuprofile", "", "`file` to write a CPU profile of both sides to")
	list := flags.Bool("list", false, "list the comparisons and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	if *rounds < 1 || *length < time.Millisecond {
		return fmt.Errorf("-rounds %d -time %v; want at least 1 and 1ms", *rounds, *length)
	}
	env, err := newEnvironment(*url, *list)
	if err != nil {
		return err
	}
	defer env.close()
	comparisons, err := env.comparisons(match)
	if err != nil {
		return err
	}
	bounds := limits(match)
	cached := studies(match)
	if len(comparisons)+len(bounds)+len(cached) == 0 {
		return fmt.Errorf("-run %q matches nothing; see -list", *pattern)
	}
	if *list {
		for _, c := range comparisons {
			fmt.Fprintf(out, "%s (%d goroutines)\n", c.name, c.goroutines)
		}
		for _, l := range bounds {
			fmt.Fprintln(out, l.name)
		}
		for _, s := range cached {
			fmt.Fprintln(out, s.name)
		}
		return nil
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Fprintf(out, "%s, GOMAXPROCS %d, %s, %d rounds of %v each side\n\n", runtime.Version(), runtime.GOMAXPROCS(0), env.server, *rounds, *length)
	if len(comparisons) > 0 {
		fmt.Fprint(out, header)
	}
	var results []result
	for _, c := range comparisons {
		r := compare(&c, *rounds, *length)
		row(out, r)
		results = append(results, r)
	}
	printLimits(out, env, bounds)
	more, err := runStudies(out, env, cached, *rounds, *length)
	if err != nil {
		return err
	}
	results = append(results, more...)
	if *file == "" {
		return nil
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*file, append(data, '\n'), 0o644)
}
