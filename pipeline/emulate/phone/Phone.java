package org.lastmile.phone;

import android.app.Activity;
import android.content.ComponentName;
import android.content.Context;
import android.content.Intent;
import android.os.Looper;
import android.os.PowerManager;
import android.util.Log;
import java.io.BufferedReader;
import java.io.File;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;
import java.time.Duration;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.json.JSONObject;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.junit.runners.model.FrameworkMethod;
import org.junit.runners.model.InitializationError;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.Shadows;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;
import org.robolectric.annotation.LooperMode;
import org.robolectric.annotation.Implementation;
import org.robolectric.annotation.Implements;
import org.robolectric.internal.bytecode.InstrumentationConfiguration;
import org.robolectric.shadows.ShadowBuild;
import org.robolectric.shadows.ShadowContextImpl;
import org.robolectric.shadows.ShadowEnvironment;
import org.robolectric.shadows.ShadowLog;
import org.robolectric.shadows.ShadowSystemClock;
import org.robolectric.shadows.ShadowSystemProperties;
import org.robolectric.util.ReflectionHelpers;

/**
 * The app's process on the emulated phone. Each line of standard input is a JSON object: {"start": activity, "extras":
 * {...}}, {"thermal": status}, {"awake": boolean} or {"focus": boolean}, with a "number". When it is done, it writes the
 * number to the file PHONE_REPLIES. All output goes to the log. Unlike a test, it runs until it is killed or the app's
 * code throws.
 */
@RunWith(Phone.Runner.class)
@Config(sdk = 34, qualifiers = "w411dp-h891dp-xxhdpi", shadows = Phone.Storage.class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@LooperMode(LooperMode.Mode.PAUSED)
public class Phone {
    private static final String END_OF_INPUT = "";
    private static final int FRAME_MS = 4;

    /** The activity that was started last. */
    private static ActivityController<? extends Activity> shown;

    @Test
    public void lives() throws Exception {
        PrintStream replies = new PrintStream(new FileOutputStream(System.getenv("PHONE_REPLIES")), true, StandardCharsets.UTF_8);
        ShadowLog.stream = System.out;
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> dies(thread.getName(), error));
        prepare(new JSONObject(System.getenv("PHONE_PROPERTIES")));
        BlockingQueue<String> requests = new LinkedBlockingQueue<>();
        Thread listener = new Thread(() -> listen(requests), "listener");
        listener.setDaemon(true);
        listener.start();
        long last = System.nanoTime();
        while (true) {
            String line = requests.poll(FRAME_MS, TimeUnit.MILLISECONDS);
            if (END_OF_INPUT.equals(line)) return;
            try {
                if (line != null) {
                    JSONObject request = new JSONObject(line);
                    handle(request);
                    replies.println(request.getInt("number"));
                }
                long now = System.nanoTime(); // Robolectric's clock only advances on request
                ShadowSystemClock.advanceBy(Duration.ofNanos(now - last));
                last = now;
                Shadows.shadowOf(Looper.getMainLooper()).idle();
            } catch (Throwable error) {
                dies("main", error);
            }
        }
    }

    private static void prepare(JSONObject properties) throws Exception {
        for (Iterator<String> keys = properties.keys(); keys.hasNext(); ) {
            String key = keys.next();
            ShadowSystemProperties.override(key, properties.getString(key));
        }
        ShadowBuild.setManufacturer(properties.getString("ro.product.manufacturer"));
        ShadowBuild.setBrand(properties.getString("ro.product.brand"));
        ShadowBuild.setModel(properties.getString("ro.product.model"));
        ShadowBuild.setDevice(properties.getString("ro.product.device"));
        ShadowBuild.setProduct(properties.getString("ro.product.name"));
        ShadowBuild.setSystemOnChipManufacturer(properties.getString("ro.soc.manufacturer"));
        ShadowBuild.setSystemOnChipModel(properties.getString("ro.soc.model"));
        ShadowBuild.setSupportedAbis(properties.getString("ro.product.cpu.abilist").split(","));
        ShadowBuild.setSupported64BitAbis(properties.getString("ro.product.cpu.abilist").split(","));
        ShadowEnvironment.setExternalStorageDirectory(Paths.get("/sdcard"));
        ShadowEnvironment.setExternalStorageState("mounted");
    }

    private static void listen(BlockingQueue<String> requests) {
        try (BufferedReader reader = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = reader.readLine(); line != null; line = reader.readLine()) requests.add(line);
        } catch (java.io.IOException error) {
            Log.e("Phone", "standard input", error);
        }
        requests.add(END_OF_INPUT);
    }

    private static void handle(JSONObject request) throws Exception {
        if (request.has("thermal")) {
            PowerManager power = (PowerManager) RuntimeEnvironment.getApplication().getSystemService(Context.POWER_SERVICE);
            Shadows.shadowOf(power).setCurrentThermalStatus(request.getInt("thermal"));
            return;
        }
        if (request.has("awake")) {
            PowerManager power = (PowerManager) RuntimeEnvironment.getApplication().getSystemService(Context.POWER_SERVICE);
            Shadows.shadowOf(power).turnScreenOn(request.getBoolean("awake"));
            String action = request.getBoolean("awake") ? Intent.ACTION_SCREEN_ON : Intent.ACTION_SCREEN_OFF;
            RuntimeEnvironment.getApplication().sendBroadcast(new Intent(action));
            return;
        }
        if (request.has("focus")) {
            if (shown != null) shown.windowFocusChanged(request.getBoolean("focus")).pause();
            return;
        }
        String name = request.getString("start");
        Context context = RuntimeEnvironment.getApplication();
        Intent intent = new Intent().setComponent(new ComponentName(context.getPackageName(), name));
        JSONObject extras = request.getJSONObject("extras");
        for (Iterator<String> keys = extras.keys(); keys.hasNext(); ) {
            String key = keys.next();
            intent.putExtra(key, extras.getString(key));
        }
        shown = Robolectric.buildActivity(Class.forName(name).asSubclass(Activity.class), intent).setup().windowFocusChanged(true);
    }

    /** Loads Kotlin's library in Robolectric's sandbox too: R8 has processed it with the app, so each needs the other. */
    public static class Runner extends RobolectricTestRunner {
        public Runner(Class<?> test) throws InitializationError {
            super(test);
        }

        @Override
        protected InstrumentationConfiguration createClassLoaderConfig(FrameworkMethod method) {
            InstrumentationConfiguration made = super.createClassLoaderConfig(method);
            Set<String> outside = new HashSet<>(ReflectionHelpers.<Set<String>>getField(made, "packagesToNotAcquire"));
            outside.removeIf(name -> name.startsWith("kotlin"));
            ReflectionHelpers.setField(made, "packagesToNotAcquire", outside);
            return made;
        }
    }

    /** The app's folder on the phone's storage, instead of Robolectric's temporary folder. */
    @Implements(className = ShadowContextImpl.CLASS_NAME)
    public static class Storage extends ShadowContextImpl {
        @Implementation
        protected File getExternalFilesDir(String type) {
            String own = "/sdcard/Android/data/" + RuntimeEnvironment.getApplication().getPackageName() + "/files";
            File folder = type == null ? new File(own) : new File(own, type);
            folder.mkdirs();
            return folder;
        }
    }

    /** Handles an exception that the app does not catch, on any thread, as Android does. */
    private static void dies(String thread, Throwable error) {
        StringWriter trace = new StringWriter();
        error.printStackTrace(new PrintWriter(trace));
        for (String line : ("FATAL EXCEPTION: " + thread + "\n" + trace).split("\n"))
            System.out.println("E/AndroidRuntime: " + line);
        System.out.flush();
        Runtime.getRuntime().halt(1);
    }
}
