# What U-Boot runs. Devices are U-Boot's own variables and the names of partitions, so that one script fits every board.
# A slot that cannot be loaded is passed over. An `extra.txt` beside this file may hold `extra=...` for the kernel.
setenv extra
if load ${devtype} ${devnum}:${distro_bootpart} ${loadaddr} extra.txt; then
  env import -t ${loadaddr} ${filesize} extra
fi
for slot in a b; do
  if part number ${devtype} ${devnum} kernel-${slot} part; then
    if load ${devtype} ${devnum}:${part} ${kernel_addr_r} Image && load ${devtype} ${devnum}:${part} ${ramdisk_addr_r} initrd; then
      setenv bootargs "console=@CONSOLE@ quiet panic=5 gpt cma=0 millrace.slot=${slot} ${extra}"
      booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt_addr}
    fi
  fi
done
echo "no slot can be loaded"
sleep 10
reset
