package main

import (
	"github.com/spf13/cobra"

	"jnbd/attach"
	"jnbd/kernel"
)

func (a *app) detachCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "detach /dev/nbdN",
		Short: "Take a device from its export",
		Long: `Detach sends what is still unwritten, makes it durable, and takes the device from the
kernel. The jnbd attach that looked after it ends. A device that is mounted, or part of a
volume, is refused.

With --force it is taken from whoever uses it, also when the server is gone: requests that
are under way fail, processes that wait for them go on, and what was not written is lost.`,
		Args: exactArgs("DEVICE"),
		RunE: func(_ *cobra.Command, args []string) error {
			index, err := kernel.Index(args[0])
			if err != nil {
				return &usageError{err}
			}
			driver, err := kernel.Open()
			if err != nil {
				return err
			}
			defer driver.Close() // nothing was changed that it could undo
			detach := attach.Detach
			if force {
				detach = attach.Force
			}
			if err := detach(driver, index); err != nil {
				return err
			}
			awaitSupervisor(index)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also from whoever uses it; what was not written is lost")
	return cmd
}
